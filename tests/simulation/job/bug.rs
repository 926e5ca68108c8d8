//! Faults that are built into parts of the program, to see that the checks notice them.

/// A fault of a part of the program that the checks must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A reader goes on *at* the last record, not after it.
    ResumesInclusive,
    /// A shard that is closed is not listed any more, though it has not been read to its end.
    DropsClosedShards,
    /// An item is written whatever is stored.
    IgnoresVersions,
    /// DynamoDB writes results whatever the condition is.
    IgnoresConditions,
    /// DynamoDB gives an entry of the ledger to whoever claims it.
    GivesClaimsTwice,
    /// DynamoDB finds nothing in the ledger.
    FindsNothingMarked,
    /// Kinesis goes on one record further on than it is asked to.
    SkipsARecord,
    /// Kinesis does not list shards that are closed.
    ListsOpenShardsOnly,
    /// An object of S3 is there before its upload is completed.
    ShowsUploads,
    /// S3 says of an upload that it is completed, and has lost it, now and then.
    LosesUploads,
    /// A stream says that all records of a batch are stored.
    HidesFailedRecords,
    /// A message that is published again has another id.
    RenamesMessages,
    /// A file is seen before the log names it.
    ShowsBeforeCommit,
    /// After a crash, what is in committed files is written again.
    ForgetsCommitted,
    /// Rows in open files are called durable.
    SaysDurable,
    /// Two runs give their files the same names.
    ReusesNames,
    /// Objects that are to be created replace others: nobody is fenced.
    SkipsFence,
    /// An object that was acknowledged is not there, now and then.
    LosesObjects,
    /// What has been published is not looked up in the ledger.
    ForgetsLedger,
    /// Alerts of one key have one id.
    ReusesAlertIds,
    /// The log does not say what epochs had of a reference table: who repeats them takes it as it is.
    ForgetsVersions,
    /// A reader that cannot ask says that there is nothing.
    SaysNothingUnasked,
    /// Versions of reference tables have the same name whenever and by whomever they are written.
    NamesVersionsByContent,
    /// An entry of the log that was said to be on the disk is lost when power fails.
    DoesNotSync,
    /// What nothing names any more is not removed.
    RemovesNothing,
    /// An entry of the log is said to be written before it is.
    AnswersEarly,
    /// A checkpoint does not say how far time had come.
    ForgetsWatermarks,
    /// The last refused record of each flush is said to be in the error output, and is not.
    LosesRefused,
    /// A row, or a result, that makes a query fail is said to be in the error output, and is not.
    LosesFailedRows,
    /// A checkpoint that a job goes back to does not say that only some queries are given what comes first.
    ForgetsWhoCatchesUp,
}

impl Bug {
    /// Whether it is between the program's own connectors and AWS; the others are in the models.
    pub(crate) fn is_of_own_connectors(self) -> bool {
        matches!(
            self,
            Self::IgnoresConditions
                | Self::GivesClaimsTwice
                | Self::FindsNothingMarked
                | Self::RenamesMessages
                | Self::ShowsUploads
                | Self::HidesFailedRecords
                | Self::LosesUploads
                | Self::SkipsARecord
                | Self::ListsOpenShardsOnly
        )
    }

    pub(crate) const ALL: [Self; 30] = [
        Self::LosesRefused,
        Self::LosesFailedRows,
        Self::ForgetsWhoCatchesUp,
        Self::ResumesInclusive,
        Self::DropsClosedShards,
        Self::IgnoresVersions,
        Self::IgnoresConditions,
        Self::GivesClaimsTwice,
        Self::FindsNothingMarked,
        Self::RenamesMessages,
        Self::ShowsUploads,
        Self::HidesFailedRecords,
        Self::LosesUploads,
        Self::SkipsARecord,
        Self::ListsOpenShardsOnly,
        Self::ShowsBeforeCommit,
        Self::ForgetsCommitted,
        Self::SaysDurable,
        Self::ReusesNames,
        Self::SkipsFence,
        Self::LosesObjects,
        Self::ForgetsLedger,
        Self::ReusesAlertIds,
        Self::ForgetsVersions,
        Self::SaysNothingUnasked,
        Self::NamesVersionsByContent,
        Self::DoesNotSync,
        Self::RemovesNothing,
        Self::AnswersEarly,
        Self::ForgetsWatermarks,
    ];
}
