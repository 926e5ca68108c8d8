//! What goes wrong, and when: by counting calls, so that each run meets every kind.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::aws_stub::{self, AwsStub};
use crate::proxy::{self, Proxy};
use crate::stub::{Fault, Running, Script};

/// Faults of an operation in turn, at each `every`th call.
fn in_turn(plan: &'static [(&'static str, usize, &'static [Fault])]) -> Script {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    Box::new(move |operation| {
        let Some((_, every, faults)) = plan.iter().find(|(name, ..)| *name == operation) else { return Fault::None };
        let count = counts.entry(operation.to_owned()).or_default();
        *count += 1;
        if count.is_multiple_of(*every) { faults[(*count / every - 1) % faults.len()] } else { Fault::None }
    })
}

use Fault::{Conflict, CutAfter, CutBefore, Late, None as Done, Partial, ServerError, ServerErrorAfter, Throttle};

/// Records that are put are not repeated after they were stored: what a producer puts twice is twice in the stream, and no
/// reader can know. Those calls fail before anything is done.
const KINESIS: &[(&str, usize, &[Fault])] = &[
    ("GetRecords", 6, &[Throttle, CutAfter, ServerError, CutBefore, ServerErrorAfter]),
    ("GetShardIterator", 2, &[CutAfter, ServerError, Throttle]),
    ("ListShards", 2, &[ServerError, CutAfter]),
    ("PutRecords", 3, &[Throttle, ServerError, CutBefore]),
];
const DYNAMODB: &[(&str, usize, &[Fault])] = &[
    ("UpdateItem", 13, &[Throttle, CutAfter, Conflict, Late(70), ServerError, ServerErrorAfter, CutBefore, Late(700)]),
    // Of a ledger of alerts, where there is one.
    ("BatchGetItem", 7, &[Throttle, CutAfter, Partial, ServerError]),
    ("BatchWriteItem", 7, &[CutAfter, Throttle, Partial, CutBefore, ServerErrorAfter]),
];
/// The first call's reply is lost, so that also the only alert of a file comes twice.
const SNS: &[(&str, usize, &[Fault])] = &[(
    "PublishBatch",
    1,
    &[CutAfter, Throttle, Done, Done, Done, CutBefore, Done, Done, ServerErrorAfter, Done, Done, Done],
)];

pub(crate) fn of_kinesis() -> Script {
    in_turn(KINESIS)
}

pub(crate) fn of_dynamodb() -> Script {
    in_turn(DYNAMODB)
}

pub(crate) fn of_sns() -> Script {
    in_turn(SNS)
}

/// Each fault of an operation's plan has happened; of publishing the first two. (One alert is published until it is heard of, which may
/// be before all has been tried.)
pub(crate) fn check_met(running: &Running, operation: &str) {
    check_first(running, operation, if operation == "PublishBatch" { 2 } else { usize::MAX });
}

/// Each fault of an operation's plan has happened.
pub(crate) fn check_all_met(running: &Running, operation: &str) {
    check_first(running, operation, usize::MAX);
}

fn check_first(running: &Running, operation: &str, first: usize) {
    let plan = [KINESIS, DYNAMODB, SNS].into_iter().flatten().find(|(name, ..)| *name == operation).unwrap().2;
    let calls = running.calls.lock().unwrap();
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for (_, fault) in calls.iter().filter(|(name, _)| name == operation) {
        *met.entry(format!("{fault:?}")).or_default() += 1;
    }
    for fault in plan.iter().take(first) {
        assert!(met.contains_key(&format!("{fault:?}")), "{operation} has not met {fault:?}, only {met:?}");
    }
    println!("{operation} has met {met:?}");
}

/// The same of the stub, which also breaks subscriptions in the middle.
pub(crate) fn of_the_stub(stub: &AwsStub) {
    use aws_stub::Fault::{BadFrame, Closed, CutAnswer, CutStream, Error, Exception};
    for operation in ["DescribeStreamSummary", "ListShards", "RegisterStreamConsumer", "SubscribeToShard"] {
        for fault in [Error(400, "LimitExceededException"), Error(500, "InternalFailure"), CutAnswer, Closed] {
            stub.fail(operation, 1, fault);
        }
    }
    for fault in [Error(400, "ProvisionedThroughputExceededException"), Error(500, "InternalFailure"), Closed] {
        stub.fail("PutRecords", 1, fault);
    }
    for fault in [Exception("InternalFailureException"), BadFrame, CutStream] {
        stub.fail("event", 1, fault);
    }
    stub.state().subscription = Duration::from_secs(6);
}

pub(crate) fn check_stub(stub: &AwsStub) {
    assert_eq!(stub.faults_left(), 0, "faults that were not met");
    assert_eq!(stub.state().violations, 0);
}

/// Each step of each upload fails once.
pub(crate) fn of_s3(proxy: &Proxy) {
    use proxy::Fault::{Answer, LoseAnswer};
    proxy.next(2, "GET", "list-type=2", Answer(503, "SlowDown"));
    proxy.next(1, "GET", "uploads", Answer(500, "InternalError"));
    proxy.next(1, "POST", "uploads", Answer(503, "SlowDown"));
    proxy.next(1, "PUT", "partNumber=1", LoseAnswer);
    proxy.next(1, "PUT", "partNumber=1", Answer(503, "SlowDown"));
    proxy.next(1, "POST", "uploadId=", Answer(500, "InternalError"));
    // It is completed, and nobody hears of it.
    proxy.next(1, "POST", "uploadId=", LoseAnswer);
}
