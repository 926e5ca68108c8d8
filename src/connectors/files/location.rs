//! Where a table's files lie: in a folder of this machine, or under a prefix of a bucket.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::connectors::aws::{AwsSession, Bucket};
use crate::contracts::{Clock, Error, Result};

/// How paths are found: what stands for S3, and as whom it is reached.
pub(crate) struct Reach<'a> {
    /// With `--local DIR`, buckets are folders below `DIR/s3`.
    pub(crate) local: Option<&'a Path>,
    /// The session of the table, made when it is needed.
    pub(crate) session: &'a dyn Fn() -> Result<AwsSession>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A folder (or one file) of a table.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Local(PathBuf),
    S3(Prefix),
}

/// Objects whose keys begin alike.
#[derive(Debug, Clone)]
pub(super) struct Prefix {
    pub(super) bucket: Bucket,
    /// Without slashes at its ends; empty for the whole bucket.
    pub(super) key: String,
}

impl Prefix {
    /// The key of `below` under this prefix.
    pub(super) fn join(&self, below: &str) -> String {
        if self.key.is_empty() { below.to_owned() } else { format!("{}/{below}", self.key) }
    }

    /// `s3://bucket/key` of an object.
    pub(super) fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket.name())
    }
}

/// Bucket and key of an S3 path, without slashes at their ends; `None` for any other path.
///
/// # Errors
/// `s3://` followed by no bucket, or by `..` or empty names.
pub fn s3_path(path: &str) -> Result<Option<(String, String)>> {
    let Some(rest) = ["s3://", "s3a://", "s3n://"].iter().find_map(|scheme| path.strip_prefix(scheme)) else {
        return Ok(None);
    };
    let rest = rest.trim_matches('/');
    let names = Path::new(rest).components().all(|c| matches!(c, Component::Normal(_)));
    if !names || rest.is_empty() || rest.contains("//") {
        return Err(Error::config(format!("'{path}' is no S3 path")).hint("write s3://bucket/key"));
    }
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Some((bucket.to_owned(), key.to_owned())))
}

/// Whether `path` is one that a table, the error output or checkpoints may have, which needs no look at what is there.
///
/// # Errors
/// Nothing, another service than S3, or a misspelt `s3://`: as a plain path it would silently be a folder.
pub fn check_path(path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(Error::config("the path is empty"));
    }
    if s3_path(path)?.is_some() || path.starts_with("file:") {
        return Ok(());
    }
    let known = "a plain path, file:///… or s3://bucket/key";
    if let Some((scheme, _)) = path.split_once("://") {
        return Err(Error::config(format!("'{path}': paths of '{scheme}' are not known")).hint(known));
    }
    let Some((scheme, rest)) = path.split_once(':') else { return Ok(()) };
    let is_scheme = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if is_scheme && (rest.starts_with('/') || matches!(scheme, "s3" | "s3a" | "s3n")) {
        let near = format!("{scheme}://{}", rest.trim_start_matches('/'));
        let error = Error::config(format!("'{path}' is neither a folder of this machine nor a path of S3"));
        return Err(if near.starts_with("s3") {
            error.hint(format!("did you mean '{near}'?"))
        } else {
            error.hint(known)
        });
    }
    Ok(())
}

impl Reach<'_> {
    /// Where `path` leads: in a folder of this machine, as an absolute path, so that files have the same names whatever folder the
    /// program is started in.
    pub(super) fn place(&self, path: &str) -> Result<Place> {
        Ok(match self.place_as_written(path)? {
            Place::Local(root) => Place::Local(absolute(&root)?),
            bucket @ Place::S3(_) => bucket,
        })
    }

    /// The same without that, for what is only shown to people.
    pub(super) fn place_as_written(&self, path: &str) -> Result<Place> {
        if let Some((bucket, key)) = s3_path(path)? {
            return Ok(match self.local {
                Some(dir) => Place::Local(dir.join("s3").join(bucket).join(key)),
                None => {
                    Place::S3(Prefix { bucket: Bucket::new(&bucket, (self.session)()?, Arc::clone(&self.clock)), key })
                }
            });
        }
        if let Some(rest) = path.strip_prefix("file:") {
            // file:/a, file:///a and file://localhost/a
            let rest = rest.strip_prefix("//localhost").or_else(|| rest.strip_prefix("//")).unwrap_or(rest);
            return Ok(Place::Local(PathBuf::from(rest)));
        }
        if path.is_empty() {
            return Err(Error::config("the option 'path' is empty"));
        }
        check_path(path)?;
        Ok(Place::Local(PathBuf::from(path)))
    }
}

/// An absolute path without `.` and `..`. Symbolic links stay as they are named (what they lead to may be exchanged), except before a `..`,
/// which leads out of the folder that is meant.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let failed = |e| Error::config(format!("'{}' cannot be made an absolute path", path.display())).caused_by(e);
    let mut clean = PathBuf::new();
    for part in std::path::absolute(path).map_err(failed)?.components() {
        match part {
            Component::ParentDir => {
                if clean.is_symlink()
                    && let Ok(meant) = clean.canonicalize()
                {
                    clean = meant;
                }
                clean.pop();
            }
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::aws::AwsSessions;
    use crate::contracts::ManualClock;

    fn place(path: &str, local: Option<&str>) -> Result<Place> {
        let sessions = AwsSessions::default();
        let reach = Reach {
            local: local.map(Path::new),
            session: &|| sessions.default_session(),
            clock: Arc::new(ManualClock::new(0)),
        };
        reach.place(path)
    }

    #[test]
    fn schemes() {
        let folder = |path, local| match place(path, local) {
            Ok(Place::Local(path)) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(folder("s3://b/events/", Some("/d")), Path::new("/d/s3/b/events"));
        assert_eq!(folder("file:///a/b", None), Path::new("/a/b"));
        let here = std::env::current_dir().expect("a folder");
        for written in ["x/y", "./x/y", "x/./y/", "x/z/../y", "x//y"] {
            assert_eq!(folder(written, None), here.join("x/y"), "{written}");
        }
        assert_eq!(folder("s3://b/k", Some("d/..")), here.join("s3/b/k"));
        assert_eq!(folder("/../a", None), Path::new("/a"));
        assert!(place("s3://b/../../etc", Some("/d")).is_err());
        assert!(place("s3:///", None).is_err());
        assert!(place("hdfs://b/k", None).is_err());
        for misspelt in ["s3:/b/k", "s3:b/k", "s3a:/b", "hdfs:/b"] {
            let error = place(misspelt, Some("/d")).expect_err("no folder of this name is meant");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("://")), "{misspelt}: {error}");
        }
        assert_eq!(folder("at 12:30/x", None), here.join("at 12:30/x"));
        match place("s3a://b/k/l/", None) {
            Ok(Place::S3(prefix)) => assert_eq!((prefix.bucket.name(), prefix.key.as_str()), ("b", "k/l")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_link_is_followed_where_a_path_leads_out_of_it() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("it is there");
        std::fs::create_dir_all(top.join("deep/job")).expect("made");
        std::os::unix::fs::symlink(top.join("deep/job"), top.join("link")).expect("made");
        assert_eq!(absolute(&top.join("link/data")).expect("a path"), top.join("link/data"));
        assert_eq!(absolute(&top.join("link/../data")).expect("a path"), top.join("deep/data"));
    }
}
