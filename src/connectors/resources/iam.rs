//! The least-privilege policy of a job.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Resource, Target};

/// A policy that allows what the resources' grants say, and nothing else. `region` and `account` fill in ARNs whose
/// resource names neither.
///
/// Keys of KMS are not in it: whether a resource is encrypted by one is not known from SQL.
pub fn policy(resources: &[Resource], region: &str, account: &str) -> Value {
    // Resources with the same rights share a statement, so that a job with many tables stays below the 6,144
    // characters of a policy.
    let mut statements: BTreeMap<(Vec<&str>, Option<String>), Vec<String>> = BTreeMap::new();
    for resource in resources {
        let mut by_target: BTreeMap<&Target, Vec<&str>> = BTreeMap::new();
        for (target, action) in &resource.grants {
            by_target.entry(target).or_default().push(action);
        }
        let arn = resource.arn(region, account);
        for (target, actions) in by_target {
            let below = |prefix: &str| if prefix.is_empty() { format!("{arn}/*") } else { format!("{arn}/{prefix}/*") };
            let (on, listed) = match target {
                Target::Itself => (vec![arn.clone()], None),
                Target::Consumers => (vec![format!("{arn}/consumer/*")], None),
                // A table's path may be one object.
                Target::Objects(prefix) if prefix.rsplit('/').next().is_some_and(|name| name.contains('.')) => {
                    (vec![format!("{arn}/{prefix}"), below(prefix)], None)
                }
                Target::Objects(prefix) => (vec![below(prefix)], None),
                Target::Listing(prefix) => (vec![arn.clone()], Some(prefix.clone()).filter(|p| !p.is_empty())),
                Target::Anything => (vec!["*".to_owned()], None),
            };
            let on_same = statements.entry((actions, listed)).or_default();
            on_same.extend(on.into_iter().filter(|arn| arn != "*"));
            if *target == Target::Anything && !on_same.contains(&"*".to_owned()) {
                on_same.push("*".to_owned());
            }
        }
    }
    let statement = |((actions, listed), mut on): ((Vec<&str>, Option<String>), Vec<String>)| {
        on.sort();
        on.dedup();
        let mut statement = json!({ "Effect": "Allow", "Action": actions, "Resource": on });
        if let Some(prefix) = listed {
            statement["Condition"] = json!({ "StringLike": { "s3:prefix": [format!("{prefix}/*"), prefix] } });
        }
        statement
    };
    json!({ "Version": "2012-10-17", "Statement": statements.into_iter().map(statement).collect::<Vec<_>>() })
}
