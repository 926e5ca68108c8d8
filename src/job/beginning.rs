//! What a run says of where it begins: who has named another folder, or another job, sees it here, before the results do.

use std::path::Path;

use super::run::JobOptions;
use super::state_text::short;
use crate::contracts::{Error, ErrorKind, Result};
use crate::sql::{QueryPlan, Settings};
use crate::state::{CheckpointStore, Manifest};

/// See the module's description.
pub(super) struct Beginning<'a> {
    /// Where checkpoints lie.
    pub(super) place: String,
    pub(super) is_folder: bool,
    /// The checkpoint that the run goes on from.
    pub(super) manifest: Option<&'a Manifest>,
    /// What that is, when it is not the newest.
    pub(super) back: Option<&'a str>,
    /// The last epoch in the log.
    pub(super) repeats: u64,
    pub(super) fresh: bool,
}

impl Beginning<'_> {
    /// Where it begins, and what is then written a second time.
    pub(super) fn notes(&self, queries: &[QueryPlan]) -> Vec<String> {
        let mut notes = vec![self.note()];
        let manifest = self.manifest.filter(|_| !self.fresh);
        let back = self.back.or_else(|| manifest.and_then(|manifest| manifest.from.as_deref()));
        let twice = queries.iter().filter(|query| query.sink.key.is_empty());
        let twice: Vec<_> = twice.map(|query| format!("'{}'", query.sink.name)).collect();
        if let Some(back) = back.filter(|_| !twice.is_empty()) {
            notes.push(format!(
                "{back} is not the newest state: rows that came after it are read again, and come a second time in {}, which have no key",
                twice.join(", ")
            ));
        }
        if self.back.is_some()
            && let Some(note) = manifest.and_then(first_again)
        {
            notes.push(note);
        }
        notes
    }

    fn note(&self) -> String {
        if self.fresh {
            return format!("the run begins anew, whatever is in {}", self.place);
        }
        let (place, last) = (&self.place, self.repeats);
        let log = match last > self.manifest.map_or(0, |manifest| manifest.epoch) {
            true => format!("; epochs up to {last} are repeated from its log"),
            false => String::new(),
        };
        match self.manifest {
            Some(manifest) => {
                let of = self.back.unwrap_or("the newest checkpoint");
                format!("the run goes on from {of} in {place}: {}{log}", short(manifest))
            }
            None => format!("the run begins without state: no checkpoint in {place}{log}{}", self.others()),
        }
    }

    /// Jobs that have checkpoints beside the place where this one has none.
    fn others(&self) -> String {
        let parent = Path::new(&self.place).parent().filter(|_| self.is_folder);
        let entries = parent.and_then(|parent| std::fs::read_dir(parent).ok()).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().join("manifests").is_dir() && entry.path() != Path::new(&self.place))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        match names.len() {
            0 => String::new(),
            _ => format!(" (beside it: {}; a job is known by the name of its file or folder)", names.join(", ")),
        }
    }
}

/// The savepoint to go back to.
pub(super) async fn savepoint(store: &CheckpointStore, name: &str) -> Result<Manifest> {
    let found = store.savepoint(name).await;
    found.map_err(|error| match name.parse::<u64>() {
        Ok(number) if error.kind() == ErrorKind::Config => {
            let place = store.storage().place();
            error.hint(format!("to go back to a checkpoint that has no name, `tidemill state rewind {place} {number}`"))
        }
        _ => error,
    })
}

/// An error of state that is damaged says which savepoints there are to go back to, but for the one that was `tried`.
pub(super) async fn or_savepoint(store: &CheckpointStore, error: Error, tried: Option<&str>) -> Error {
    if error.kind() != ErrorKind::Corrupt {
        return error;
    }
    let mut names = store.savepoints().await.unwrap_or_default();
    names.retain(|name| tried != Some(name));
    match (names.is_empty(), error.hint_text().map(str::to_owned)) {
        (true, _) => error,
        (false, hint) => {
            let or = hint.map(|hint| format!("; or {hint}")).unwrap_or_default();
            error.hint(format!("go back to a savepoint with --from-savepoint (there is {}){or}", names.join(", ")))
        }
    }
}

/// A job says itself where its checkpoints lie, and a run with `--local` does not look there.
pub(super) fn unused_setting(options: &JobOptions, settings: &Settings) -> Option<String> {
    let (set, local) = (settings.checkpoints_path.as_ref()?, options.local.as_ref()?);
    options.state.path.is_none().then(|| {
        format!(
            "'state.checkpoints.dir' = '{set}' has no effect with --local: checkpoints are below {}",
            local.join("checkpoints").display()
        )
    })
}

/// What is said of a checkpoint that a job goes back to, when it was running then and had open files.
pub(super) fn first_again(of: &Manifest) -> Option<String> {
    let open: Vec<String> = of.with_open_files().map(|query| format!("'{query}'")).collect();
    (!open.is_empty()).then(|| {
        format!(
            "{} had rows in open files then: these records are read again first, and given to no other query",
            open.join(", ")
        )
    })
}
