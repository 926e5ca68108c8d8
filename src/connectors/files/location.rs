//! Where a table's path lies on this machine.

use std::path::{Component, Path, PathBuf};

use crate::contracts::{Error, Result};

/// The local path that stands for `path`.
pub(super) fn resolve(path: &str, local: Option<&Path>) -> Result<PathBuf> {
    let s3 = ["s3://", "s3a://", "s3n://"].iter().find_map(|scheme| path.strip_prefix(scheme));
    if let Some(rest) = s3 {
        let rest = Path::new(rest.trim_start_matches('/'));
        if rest.components().any(|c| !matches!(c, Component::Normal(_))) || rest.as_os_str().is_empty() {
            return Err(Error::config(format!("'{path}' is no S3 path")).hint("write s3://bucket/key"));
        }
        return match local {
            Some(dir) => Ok(dir.join("s3").join(rest)),
            None => Err(Error::config(format!("'{path}': this version does not reach AWS S3 yet"))
                .hint("run with --local DIR, which keeps the bucket under DIR/s3, or use a plain path")),
        };
    }
    if let Some(rest) = path.strip_prefix("file:") {
        // file:/a, file:///a and file://localhost/a
        let rest = rest.strip_prefix("//localhost").or_else(|| rest.strip_prefix("//")).unwrap_or(rest);
        return Ok(PathBuf::from(rest));
    }
    match path.split_once("://") {
        Some((scheme, _)) => Err(Error::config(format!("'{path}': paths of '{scheme}' are not known"))
            .hint("a plain path, file:///… or s3://bucket/key")),
        None if path.is_empty() => Err(Error::config("the option 'path' is empty")),
        None => Ok(PathBuf::from(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        let dir = Path::new("/d");
        assert_eq!(resolve("s3://b/events/", Some(dir)).unwrap(), Path::new("/d/s3/b/events"));
        assert_eq!(resolve("file:///a/b", None).unwrap(), Path::new("/a/b"));
        assert_eq!(resolve("x/y", None).unwrap(), Path::new("x/y"));
        assert!(resolve("s3://b/../../etc", Some(dir)).is_err());
        assert!(resolve("s3://b/k", None).unwrap_err().to_string().contains("--local"));
        assert!(resolve("hdfs://b/k", None).is_err());
    }
}
