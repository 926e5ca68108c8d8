//! Hashes as lower-case hexadecimal text: MD5, SHA1, SHA224, SHA256, SHA384, SHA512, SHA2.

use arrow::array::ArrayRef;
use datafusion::common::{Result, exec_err};
use sha2::Digest;

use super::encoding::hex_digits;
use super::function::{Call, Definition, Nulls, Returns, define};

macro_rules! hash {
    ($name:literal, $digest:ty) => {
        define($name, "a", Returns::Text, Nulls::Propagate, |call| hashed(call, |bytes| hex_digits(&<$digest>::digest(bytes), false)))
    };
}

pub(crate) const DEFINITIONS: &[Definition] = &[
    hash!("md5", md5::Md5),
    hash!("sha1", sha1::Sha1),
    hash!("sha224", sha2::Sha224),
    hash!("sha256", sha2::Sha256),
    hash!("sha384", sha2::Sha384),
    hash!("sha512", sha2::Sha512),
    define("sha2", "si", Returns::Text, Nulls::Propagate, sha2),
];

fn hashed(call: &Call, hash: impl Fn(&[u8]) -> String) -> Result<ArrayRef> {
    if call.args[0].data_type().is_binary() {
        let values = call.bytes(0)?;
        return call.text(|row| values.get(row).map(&hash));
    }
    if !call.args[0].data_type().is_string() && !call.args[0].data_type().is_null() {
        return exec_err!("function {} takes a string or bytes, not {}; write CAST(… AS STRING)", call.name, call.args[0].data_type());
    }
    let texts = call.strings(0)?;
    call.text(|row| texts.get(row).map(|text| hash(text.as_bytes())))
}

/// `SHA2(s, 224 | 256 | 384 | 512)`.
fn sha2(call: &Call) -> Result<ArrayRef> {
    let (texts, bits) = (call.strings(0)?, call.integers(1)?);
    call.try_text(|row| {
        let (Some(text), Some(bits)) = (texts.get(row), bits.get(row)) else { return Ok(None) };
        let text = text.as_bytes();
        Ok(Some(match bits {
            224 => hex_digits(&sha2::Sha224::digest(text), false),
            256 => hex_digits(&sha2::Sha256::digest(text), false),
            384 => hex_digits(&sha2::Sha384::digest(text), false),
            512 => hex_digits(&sha2::Sha512::digest(text), false),
            other => return exec_err!("function sha2: {other} bits are not possible; use 224, 256, 384 or 512"),
        }))
    })
}
