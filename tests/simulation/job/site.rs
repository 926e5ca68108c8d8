//! The world of a job as one machine sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use tidemill::connectors::{Calling, Connectors, JobContext};
use tidemill::contracts::{
    Clock, ErrorOutput, LockedStorage, Lookup, Outside, ReferenceLoader, RejectedRecord, Result, Sink, Source, Storage,
    TableSpec,
};
use tidemill::state::ObjectStorage;

use super::alerts::AlertSink;
use super::aws;
use super::bug::Bug;
use super::careless::Careless;
use super::disk::{Disk, OwnDisk};
use super::lookups::{FarOwners, Weights};
use super::machine::{Machine, Nature, Watch};
use super::objects::{FarStore, Silence, stored};
use super::refusals::Refusal;
use super::sinks::{FileSink, ItemSink, Services, alert_of};
use super::stream::{FarStream, Stream};
use crate::world::{Chance, MachineClock};

/// Where the program's own error output writes.
const ERRORS: &str = "s3://simulated/errors";

/// What all machines share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) stream: Arc<Stream>,
    pub(crate) services: Arc<Services>,
    pub(crate) objects: Arc<InMemory>,
    /// Where the one process keeps what must last; else it is the object store.
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) nonces: AtomicU64,
    pub(crate) bug: Option<Bug>,
    pub(crate) silence: Option<Silence>,
    /// Of the store's client.
    pub(crate) retries: u32,
    /// Whether some requests to the store stand still before they leave.
    pub(crate) hesitates: bool,
    /// Whether the processes are a fleet, and hand the job over.
    pub(crate) fleet: bool,
    pub(crate) pace: Pace,
    /// Whether AWS is reached by the program's own connectors.
    pub(crate) own_connectors: bool,
    /// Where state goes that does not fit into memory, which is none of it.
    pub(crate) spill: Option<PathBuf>,
}

impl Shared {
    /// What is kept of checkpoints and log, by name.
    pub(crate) async fn stored(&self) -> BTreeMap<String, Bytes> {
        match &self.disk {
            Some(disk) => disk.stored(),
            None => stored(&self.objects).await,
        }
    }
}

/// How often epochs and checkpoints come. Where there are more checkpoints than epochs, or the stream is quiet, nothing is left in the log
/// but its beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) epochs: Duration,
    pub(crate) checkpoints: Duration,
}

impl Pace {
    pub(crate) fn new(chance: &Chance) -> Self {
        let one_of = |times: [u64; 4]| Duration::from_millis(times[chance.below(4) as usize]);
        Self { epochs: one_of([100, 400, 400, 1_500]), checkpoints: one_of([300, 1_000, 2_000, 5_000]) }
    }
}

/// The world as one machine sees it.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) machine: Arc<Machine>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Site {
    pub(crate) fn store(&self) -> Arc<FarStore> {
        Arc::new(FarStore {
            inner: Arc::clone(&self.shared.objects),
            machine: Arc::clone(&self.machine),
            bug: self.shared.bug,
            silence: self.shared.silence,
            retries: self.shared.retries,
            hesitates: self.shared.hesitates,
        })
    }

    /// How the machine calls AWS.
    pub(crate) fn aws(&self) -> Calling {
        let Shared { services, stream, retries, bug, .. } = &*self.shared;
        aws::calling(&self.machine, services, stream, *retries, *bug)
    }

    /// The program's own connectors.
    fn connectors(&self, generation: u64) -> Connectors {
        let job = JobContext { job: "simulated".to_owned(), generation };
        Connectors::new(None, Arc::clone(&self.clock), job).calling(self.aws())
    }

    fn own_disk(&self) -> Option<Arc<OwnDisk>> {
        self.shared.disk.as_ref().map(|disk| Arc::new(OwnDisk::new(Arc::clone(disk), Arc::clone(&self.machine))))
    }
}

impl Outside for Site {
    fn source(&self, spec: &TableSpec) -> Result<Arc<dyn Source>> {
        if self.shared.own_connectors && self.shared.stream.files() == 0 {
            return self.connectors(0).source(spec, "kinesis");
        }
        let stream = Arc::clone(&self.shared.stream);
        Ok(Arc::new(FarStream { stream, machine: Arc::clone(&self.machine), bug: self.shared.bug }))
    }

    fn sink(&self, spec: &TableSpec, connector: &str, generation: u64) -> Result<Box<dyn Sink>> {
        let (services, machine) = (Arc::clone(&self.shared.services), Arc::clone(&self.machine));
        if self.shared.own_connectors {
            if connector == "dynamodb" {
                services.tables.lock().expect("no panic while it is held").provide(spec);
            }
            return self.connectors(generation).sink(spec, connector);
        }
        Ok(match spec.primary_key.is_empty() {
            true if spec.name == "alerts" => Box::new(AlertSink::new(services, machine, self.shared.bug)),
            true => Box::new(FileSink::new(services, machine, &spec.name, generation, self.shared.bug)),
            false => Box::new(ItemSink::new(services, machine, spec.clone(), self.shared.bug)),
        })
    }

    fn lookup(&self, spec: &TableSpec) -> Result<Arc<dyn Lookup>> {
        if self.shared.own_connectors {
            return self.connectors(0).lookup(spec, "dynamodb");
        }
        Ok(Arc::new(FarOwners { machine: Arc::clone(&self.machine), schema: Arc::clone(&spec.schema) }))
    }

    fn reference(&self, spec: &TableSpec) -> Result<Box<dyn ReferenceLoader>> {
        Ok(Box::new(Weights::new(Arc::clone(&self.machine), Arc::clone(&spec.schema))))
    }

    fn error_output(&self, generation: u64) -> Result<Box<dyn ErrorOutput>> {
        if self.shared.own_connectors {
            return self.connectors(generation).error_output(ERRORS);
        }
        let (services, machine) = (Arc::clone(&self.shared.services), Arc::clone(&self.machine));
        Ok(Box::new(Refused { services, machine, bug: self.shared.bug, waiting: Vec::new(), unknown: Vec::new() }))
    }

    fn storage(&self) -> Arc<dyn Storage> {
        if let Some(disk) = self.own_disk() {
            return disk;
        }
        let own = ObjectStorage::new(self.store(), "kept", "s3://simulated/kept", Arc::clone(&self.clock));
        match self.shared.bug {
            Some(
                bug @ (Bug::ForgetsVersions
                | Bug::NamesVersionsByContent
                | Bug::ForgetsWatermarks
                | Bug::ForgetsWhoCatchesUp),
            ) => Arc::new(Careless::new(own, bug)),
            _ => Arc::new(own),
        }
    }

    fn locked_storage(&self) -> Option<Arc<dyn LockedStorage>> {
        self.own_disk().map(|disk| disk as Arc<dyn LockedStorage>)
    }

    fn nonce(&self) -> String {
        format!("nonce-{}", self.shared.nonces.fetch_add(1, Ordering::Relaxed))
    }
}

/// Keeps what tables and queries refuse.
struct Refused {
    services: Arc<Services>,
    machine: Arc<Machine>,
    bug: Option<Bug>,
    waiting: Vec<Refusal>,
    /// Ids of alerts of which nobody knows whether they are out.
    unknown: Vec<String>,
}

#[async_trait]
impl ErrorOutput for Refused {
    async fn write(&mut self, records: &[RejectedRecord]) -> Result<()> {
        let is_unknown = |r: &&RejectedRecord| r.reason.to_string() == "delivery_unknown";
        self.waiting.extend(records.iter().filter(|record| !is_unknown(record)).map(Refusal::given));
        self.unknown.extend(records.iter().filter(is_unknown).filter_map(|r| alert_of(&r.detail)));
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let (services, mut refused) = (Arc::clone(&self.services), std::mem::take(&mut self.waiting));
        let unknown = std::mem::take(&mut self.unknown);
        match self.bug {
            Some(Bug::LosesRefused) => drop(refused.pop()),
            Some(Bug::LosesFailedRows) => refused.retain(|refusal| !refusal.is_of_query()),
            _ => {}
        }
        if refused.is_empty() && unknown.is_empty() {
            return Ok(());
        }
        let write = move || {
            services.refused.lock().expect("no panic while it is held").extend(refused.clone());
            services.unknown.lock().expect("no panic while it is held").extend(unknown.clone());
        };
        self.machine.insist(write).await;
        Ok(())
    }
}

pub(crate) fn site(shared: &Arc<Shared>, nature: &Arc<Nature>, offset_ms: i64) -> Arc<Site> {
    let machine = Machine::new(nature);
    // The hour differs from machine to machine, and how fast it goes; nothing of that may matter for what is right.
    let per_mille = {
        let mut inner = nature.lock();
        let per_mille = 980 + inner.chance.below(41) as u32;
        inner.faults.count_if(per_mille > 1_000, "fast clock");
        per_mille
    };
    let clock = MachineClock { world: Arc::clone(&nature.world), offset_ms, per_mille };
    let clock = Arc::new(Watch { clock, machine: Arc::clone(&machine) });
    Arc::new(Site { machine, shared: Arc::clone(shared), clock })
}
