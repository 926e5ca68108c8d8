//! Operators: what keeps state between epochs, and the plan leaves through which epochs flow.
//!
//! An operator gets rows and a watermark, and answers with rows. It does no I/O and reads no clock;
//! between two epochs it is quiescent, so its state can be saved without any barrier.

mod bisect;
mod by_themselves;
mod cold_rows;
mod compute;
mod consolidate;
mod count;
mod dead_rows;
mod epoch_run;
mod event_time;
mod gate;
mod graph;
mod groups;
mod guarded;
mod hash_ranges;
mod hash_run;
mod key_filter;
mod key_hashes;
mod large_plans;
mod large_windows;
mod lookup_join;
mod operator_kind;
mod output;
mod panes;
mod partials;
mod restore_room;
mod running_aggregate;
mod shared_bytes;
mod shared_rows;
mod slot;
mod stored_rows;
mod top_n;
mod window_aggregate;
mod window_buffer;
mod window_fn;
mod window_spec;

pub(crate) use bisect::TOO_MANY_FAIL;
pub use bisect::{FailedRow, Poison};
pub(crate) use by_themselves::{by_themselves, reference_sides};
pub use compute::{Compute, StateLimit, run_partitions, run_through};
pub use consolidate::{consolidate, consolidate_stored};
pub use count::{CountExec, multiplies};
pub use event_time::TableStanding;
pub use gate::{GateExec, GateKind, GateReport, RejectedRow, RowOrigin};
pub use graph::{ChangeMode, EpochInputs, Operator, QueryGraph, QueryOutput, SlotSource, Stage, StageInput, TableRows};
pub use guarded::{Guarded, guard, is_safe_operator};
pub use lookup_join::{LookupExec, LookupTable};
pub use operator_kind::OperatorKind;
pub use partials::AggregateParts;
pub use restore_room::RestoreRoom;
pub use running_aggregate::{Emit, RunningAggregate, TimeToLive};
pub use shared_bytes::{BytesPart, SharedBytes};
pub use shared_rows::{ColumnPath, EqualityTest, SharedRows};
pub use slot::{Slot, SlotExec};
pub use stored_rows::{Room, SpilledRows, StoredRows};
pub(crate) use window_aggregate::millis;
pub use window_aggregate::{WindowAggregate, WindowColumns};
pub use window_buffer::WindowBuffer;
pub use window_fn::{NotLate, WindowBound, WindowStarts};
pub use window_spec::{WindowKind, WindowSpec};

/// Hidden column: the split's watermark when the row came, in milliseconds (Int64).
pub const WATERMARK_COLUMN: &str = "__tm_watermark";
/// Hidden column: event time of the row, in milliseconds (Int64).
pub const TIME_COLUMN: &str = "__tm_time";
/// Hidden column: which record of the epoch the row came from (UInt64, chunk << 32 | record).
pub const ORIGIN_COLUMN: &str = "__tm_origin";
/// Hidden column of update streams: +1 inserted, -1 withdrawn (Int8).
pub const WEIGHT_COLUMN: &str = "__tm_weight";
