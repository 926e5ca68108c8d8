//! The check of `aws.credentials.…`: keys that no provider reads, and providers that there are not, are told before a run needs them.

use std::collections::BTreeMap;

use crate::contracts::{Error, Result};

const PREFIX: &str = "aws.credentials.";
const PROVIDER: &str = "provider";
const BASE_PROVIDER: &str = "role.provider";
/// What may stand behind the prefix; also behind `aws.credentials.provider.`, as Flink has it.
const KEYS: [&str; 11] = [
    PROVIDER,
    "basic.accesskeyid",
    "basic.secretkey",
    "profile.name",
    "profile.path",
    "role.arn",
    "role.externalId",
    BASE_PROVIDER,
    "role.sessionName",
    "role.stsEndpoint",
    "webIdentityToken.file",
];
/// Those that give credentials by themselves; with them, a role may be assumed.
const PROVIDERS: [&str; 6] = ["AUTO", "ENV_VAR", "SYS_PROP", "BASIC", "PROFILE", "WEB_IDENTITY_TOKEN"];
const ASSUME_ROLE: &str = "ASSUME_ROLE";

/// Whether the option is one of these.
pub(crate) fn is_credential(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// All keys, as they are written here.
pub(crate) fn credential_keys() -> impl Iterator<Item = String> {
    KEYS.iter().map(|key| format!("{PREFIX}{key}"))
}

/// Checks an option that [`is_credential`]; `None` for a key that there is not.
///
/// # Errors
/// A provider that there is not, or one that lacks what it needs. No value but a provider's name is in it.
pub(crate) fn check_credential(key: &str, value: &str, options: &BTreeMap<String, String>) -> Option<Result<()>> {
    let key = key.strip_prefix(PREFIX)?;
    let key = key.strip_prefix("provider.").unwrap_or(key);
    if !KEYS.contains(&key) {
        return None;
    }
    let name = value.to_ascii_uppercase();
    let is_known = match key {
        PROVIDER => PROVIDERS.contains(&name.as_str()) || name == ASSUME_ROLE,
        BASE_PROVIDER => PROVIDERS.contains(&name.as_str()),
        _ => return Some(Ok(())),
    };
    let others = if key == PROVIDER { format!(", {ASSUME_ROLE}") } else { String::new() };
    if !is_known {
        let error = Error::config(format!("'{value}' is not one of its values"));
        return Some(Err(error.hint(format!("it takes {}{others}", PROVIDERS.join(", ")))));
    }
    let needed: &[&str] = match name.as_str() {
        "BASIC" => &["basic.accesskeyid", "basic.secretkey"],
        ASSUME_ROLE => &["role.arn"],
        _ => &[],
    };
    let has = |key: &str| {
        options.contains_key(&format!("{PREFIX}{key}")) || options.contains_key(&format!("{PREFIX}provider.{key}"))
    };
    match needed.iter().find(|key| !has(key)) {
        Some(missing) => Some(Err(Error::config(format!("'{value}' needs the option '{PREFIX}{missing}'")))),
        None => Some(Ok(())),
    }
}
