//! Base64 as RFC 4648 has it: the standard alphabet with padding, which is what Flink reads and writes.

const INVALID: u8 = 0xFF;

const VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [INVALID; 256];
    let mut i = 0;
    while i < 64 {
        values[alphabet[i] as usize] = i as u8;
        i += 1;
    }
    values
};

/// Appends the bytes that `text` stands for; `None` if it is no base64, `out` then holds a part of them.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (groups, []) = text.as_chunks::<4>() else {
        return None;
    };
    for (i, group) in groups.iter().enumerate() {
        let padding = match group {
            [_, _, b'=', b'='] => 2,
            [_, _, _, b'='] => 1,
            _ => 0,
        };
        if padding > 0 && i + 1 < groups.len() {
            return None;
        }
        let mut word = 0u32;
        for character in &group[..4 - padding] {
            let value = VALUES[usize::from(*character)];
            if value == INVALID {
                return None;
            }
            word = word << 6 | u32::from(value);
        }
        word <<= 6 * padding;
        // Bits that stand for no byte must be zero, or two texts would mean the same bytes.
        if word & ((1 << (8 * padding)) - 1) != 0 {
            return None;
        }
        out.extend_from_slice(&word.to_be_bytes()[1..4 - padding]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4648_vectors() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmE=", "fooba"), ("Zm9vYmFy", "foobar")] {
            let mut out = Vec::new();
            assert_eq!(decode(text.as_bytes(), &mut out), Some(()), "{text}");
            assert_eq!(out, bytes.as_bytes());
        }
        let mut out = Vec::new();
        assert_eq!(decode(b"+/+/", &mut out), Some(()));
        assert_eq!(out, [0xFB, 0xFF, 0xBF]);
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["Z", "Zg", "Zg=", "Zg==Zg==", "Zh==", "Zm9=", "=Zg=", "Zm-v", "Zm v", "Zg==\n", "===="] {
            assert_eq!(decode(text.as_bytes(), &mut Vec::new()), None, "{text:?}");
        }
    }
}
