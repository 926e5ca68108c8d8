//! A table over all streams whose names match a pattern: which they are now, and what the caller may do with them.
//!
//! The job looks for them when a run begins, and ends where none matches; so does a check. Rights are tried on the first of them
//! by name: a policy that follows the pattern's beginning, as `tidemill iam` writes it, treats all alike.

use std::collections::BTreeSet;

use crate::connectors::aws::{Call, failure};
use crate::contracts::{Error, Result};

use super::live::Account;
use super::rights::{Right, TriedRight, effect};
use super::{Kind, Resource};

impl Resource {
    /// Whether it stands for all streams whose names match a pattern.
    pub(super) fn is_pattern(&self) -> bool {
        self.kind == Kind::Stream && self.name.contains('*')
    }
}

impl Account {
    /// Names of the streams that match, in their order.
    async fn matching(&self, resource: &Resource) -> Result<BTreeSet<String>> {
        let pattern = resource.spec.require("stream.pattern")?;
        // As the connector takes it: the whole name must match.
        let whole = regex::Regex::new(&format!("^(?:{pattern})$"));
        let whole = whole.map_err(|e| Error::config(format!("'{pattern}' is no regular expression")).caused_by(e))?;
        let client = aws_sdk_kinesis::Client::new(&self.session(resource)?.config().await?);
        let mut pages = client.list_streams().into_paginator().send();
        let mut names = BTreeSet::new();
        while let Some(page) = pages.next().await {
            let call = Call { service: "kinesis", operation: "ListStreams", resource: "*" };
            let page = page.map_err(|e| failure(call, &e).error)?;
            names.extend(page.stream_names().iter().filter(|name| whole.is_match(name)).cloned());
        }
        Ok(names)
    }

    /// How many streams match; `None` when none does.
    pub(super) async fn look_at_pattern(&self, resource: &Resource) -> Result<Option<(String, Vec<String>)>> {
        let names = self.matching(resource).await?;
        let facts = |first: &String| match names.len() {
            1 => format!("one stream matches, '{first}'"),
            more => format!("{more} streams match, the first is '{first}', on which rights are tried"),
        };
        Ok(names.first().map(|first| (facts(first), Vec::new())))
    }

    pub(super) async fn rights_on_pattern(&self, resource: &Resource) -> Result<Vec<TriedRight>> {
        let first = self.matching(resource).await?.pop_first();
        let one = first.map(|name| Resource { name, ..resource.clone() });
        let mut rights = Vec::new();
        for (target, action) in &resource.grants {
            let right = match (effect(action), &one) {
                (Some(why), _) => Right::NotTried(why.to_owned()),
                // The streams have been found by this very call.
                (None, _) if *action == "kinesis:ListStreams" => Right::Allowed,
                (None, Some(one)) => self.try_stream(one, action).await?,
                (None, None) => Right::NotTried("no stream matches the pattern now".to_owned()),
            };
            rights.push((target.clone(), *action, right));
        }
        Ok(rights)
    }
}
