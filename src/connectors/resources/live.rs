//! What AWS has of a job's resources, and making those that are missing.
//!
//! [`Account::look`] only reads. [`Account::create`] makes one resource and waits until it can be used; it changes nothing
//! that exists: every call it makes fails, or does nothing, when the name is taken.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types as db;
use aws_sdk_kinesis::types::{StreamMode, StreamModeDetails, StreamStatus};
use aws_sdk_s3::types as s3;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::connectors::aws::{AwsSession, AwsSessions, Call, failure};
use crate::contracts::{Clock, Error, Result};

use super::rights::look_without_listing;
use super::templates::ABORT_UPLOADS_DAYS;
use super::{KeyAttribute, Kind, Resource, Shape};

/// A new stream or table is looked at this often, and so many times: a stream takes some 30 s.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const LOOKS: usize = 150;

/// What is there.
#[derive(Debug)]
pub enum State {
    /// Nothing of that name.
    Missing,
    /// It is there.
    Found {
        /// In a few words: state, size, key.
        facts: String,
        /// What does not fit the SQL; empty when all does.
        problems: Vec<String>,
    },
    /// It could not be looked at.
    Unknown(Error),
}

/// The account, as the job's tables reach it.
#[derive(Debug)]
pub struct Account {
    sessions: AwsSessions,
    clock: Arc<dyn Clock>,
}

/// What a client answers.
type Sent<O, E> = std::result::Result<O, SdkError<E, HttpResponse>>;

/// `None` where there is no such resource.
fn failed<E, O>(operation: &'static str, resource: &Resource, sent: Sent<O, E>) -> Result<Option<O>>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let service = match resource.kind {
        Kind::Stream => "kinesis",
        Kind::Table => "dynamodb",
        Kind::Topic => "sns",
        Kind::Bucket => "s3",
        Kind::DeliveryStream => "firehose",
    };
    match sent {
        Ok(output) => Ok(Some(output)),
        Err(error) => {
            let failure = failure(Call { service, operation, resource: &resource.name }, &error);
            match failure.code.as_str() {
                "ResourceNotFoundException" | "NotFound" | "NotFoundException" | "NoSuchBucket" => Ok(None),
                _ => Err(failure.error),
            }
        }
    }
}

impl Account {
    /// Nothing is asked yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { sessions: AwsSessions::default(), clock }
    }

    /// Region and account number, from the session and STS.
    ///
    /// # Errors
    /// No credentials, no region, or STS does not answer.
    pub async fn identity(&self) -> Result<(String, String)> {
        let config = self.sessions.default_session()?.config().await?;
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        let asked = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await;
        let call = Call { service: "sts", operation: "GetCallerIdentity", resource: "the caller" };
        let identity = asked.map_err(|e| failure(call, &e).error)?;
        Ok((region, identity.account().unwrap_or_default().to_owned()))
    }

    pub(super) fn session(&self, resource: &Resource) -> Result<AwsSession> {
        self.sessions.of(&resource.spec)
    }

    /// What is there of a resource, compared with what the job expects.
    pub async fn look(&self, resource: &Resource) -> State {
        let found = match resource.kind {
            _ if resource.is_pattern() => self.look_at_pattern(resource).await,
            Kind::Stream => self.look_at_stream(resource).await,
            Kind::Table => self.look_at_table(resource).await,
            Kind::Topic => self.look_at_topic(resource).await,
            Kind::Bucket => self.look_at_bucket(resource).await,
            Kind::DeliveryStream => self.look_at_delivery_stream(resource).await,
        };
        match found {
            Ok(Some((facts, problems))) => State::Found { facts, problems },
            Ok(None) => State::Missing,
            Err(error) => State::Unknown(error),
        }
    }

    async fn look_at_stream(&self, resource: &Resource) -> Result<Option<(String, Vec<String>)>> {
        let config = self.session(resource)?.config().await?;
        let mut ask = aws_sdk_kinesis::Client::new(&config).describe_stream_summary();
        ask = match &resource.account {
            Some(account) => ask.stream_arn(resource.arn(config.region().map_or("", |r| r.as_ref()), account)),
            None => ask.stream_name(&resource.name),
        };
        let Some(output) = failed("DescribeStreamSummary", resource, ask.send().await)? else { return Ok(None) };
        let Some(stream) = output.stream_description_summary() else { return Ok(None) };
        let mode = match stream.stream_mode_details().map(StreamModeDetails::stream_mode) {
            Some(StreamMode::OnDemand) => "on demand",
            _ => "provisioned",
        };
        let mut problems = Vec::new();
        if !matches!(stream.stream_status(), StreamStatus::Active | StreamStatus::Updating) {
            problems.push(format!("it is {}, not ACTIVE", stream.stream_status()));
        }
        let facts = format!(
            "{}, {mode}, {} shards, keeps {} h",
            stream.stream_status(),
            stream.open_shard_count(),
            stream.retention_period_hours()
        );
        Ok(Some((facts, problems)))
    }

    async fn look_at_table(&self, resource: &Resource) -> Result<Option<(String, Vec<String>)>> {
        let config = self.session(resource)?.config().await?;
        let client = aws_sdk_dynamodb::Client::new(&config);
        let sent = client.describe_table().table_name(&resource.name).send().await;
        let Some(output) = failed("DescribeTable", resource, sent)? else { return Ok(None) };
        let Some(table) = output.table() else { return Ok(None) };
        let letter = |name: &str| {
            let definition = table.attribute_definitions().iter().find(|d| d.attribute_name() == name);
            definition.map_or("?", |d| d.attribute_type().as_str())
        };
        let text = |name: &str, letter: &str| format!("{name} {letter}");
        let found: Vec<String> =
            table.key_schema().iter().map(|k| text(k.attribute_name(), letter(k.attribute_name()))).collect();
        let status = table.table_status().map_or("?", db::TableStatus::as_str);
        let (mut problems, mut unknown) = (Vec::new(), "");
        if !matches!(status, "ACTIVE" | "UPDATING") {
            problems.push(format!("it is {status}, not ACTIVE"));
        }
        if let Shape::Table { key, ttl } = &resource.shape {
            let wanted: Vec<String> = key.iter().map(|KeyAttribute { name, letter }| text(name, letter)).collect();
            if !wanted.is_empty() && wanted != found {
                problems.push(format!("its key is ({}), the SQL's is ({})", found.join(", "), wanted.join(", ")));
            }
            if let Some(ttl) = ttl {
                match self.look_at_ttl(&client, resource, ttl).await? {
                    Some(problem) => problems.extend(problem),
                    None => unknown = ", time to live not looked at (dynamodb:DescribeTimeToLive is denied)",
                }
            }
        }
        Ok(Some((format!("{status}, key ({}){unknown}", found.join(", ")), problems)))
    }

    /// What is wrong with the time to live, if anything is; `None` where the caller may not look, which no job needs.
    async fn look_at_ttl(
        &self,
        client: &aws_sdk_dynamodb::Client,
        resource: &Resource,
        wanted: &str,
    ) -> Result<Option<Option<String>>> {
        let sent = client.describe_time_to_live().table_name(&resource.name).send().await;
        let call = Call { service: "dynamodb", operation: "DescribeTimeToLive", resource: &resource.name };
        if sent.as_ref().err().is_some_and(|error| failure(call, error).is_denied()) {
            return Ok(None);
        }
        let output = failed("DescribeTimeToLive", resource, sent)?;
        let found = output.as_ref().and_then(|o| o.time_to_live_description());
        let on = found.is_some_and(|ttl| {
            let enabled = matches!(ttl.time_to_live_status().map(|s| s.as_str()), Some("ENABLED" | "ENABLING"));
            enabled && ttl.attribute_name() == Some(wanted)
        });
        let problem = || format!("its time to live is not set to the attribute '{wanted}', so nothing is ever removed");
        Ok(Some((!on).then(problem)))
    }

    async fn look_at_topic(&self, resource: &Resource) -> Result<Option<(String, Vec<String>)>> {
        let config = self.session(resource)?.config().await?;
        let client = aws_sdk_sns::Client::new(&config);
        if let Some(account) = &resource.account {
            let arn = resource.arn(config.region().map_or("", |r| r.as_ref()), account);
            let sent = client.get_topic_attributes().topic_arn(&arn).send().await;
            return Ok(failed("GetTopicAttributes", resource, sent)?.map(|_| (arn, Vec::new())));
        }
        let mut token = None;
        loop {
            let sent = client.list_topics().set_next_token(token).send().await;
            let Some(page) = failed("ListTopics", resource, sent)? else { return Ok(None) };
            let mut arns = page.topics().iter().filter_map(|t| t.topic_arn());
            if let Some(arn) = arns.find(|arn| arn.rsplit(':').next() == Some(resource.name.as_str())) {
                return Ok(Some((arn.to_owned(), Vec::new())));
            }
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(None);
            }
        }
    }

    pub(super) async fn s3(&self, resource: &Resource) -> Result<(aws_sdk_s3::Client, String)> {
        let session = self.session(resource)?;
        let config = session.config().await?;
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        let mut settings = aws_sdk_s3::config::Builder::from(&config);
        settings.set_force_path_style(session.path_style());
        Ok((aws_sdk_s3::Client::from_conf(settings.build()), region))
    }

    async fn look_at_bucket(&self, resource: &Resource) -> Result<Option<(String, Vec<String>)>> {
        let (client, _) = self.s3(resource).await?;
        let prefix = resource.grants.iter().find_map(|(target, _)| match target {
            super::Target::Listing(prefix) if !prefix.is_empty() => Some(format!("{prefix}/")),
            _ => None,
        });
        let lists = |(target, _): &(super::Target, &str)| matches!(target, super::Target::Listing(_));
        if !resource.grants.iter().any(lists) {
            return Ok(look_without_listing(&client, resource).await?.map(|facts| (facts, Vec::new())));
        }
        let sent = client.list_objects_v2().bucket(&resource.name).set_prefix(prefix).max_keys(1).send().await;
        Ok(failed("ListObjectsV2", resource, sent)?.map(|_| ("it can be listed".to_owned(), Vec::new())))
    }

    async fn look_at_delivery_stream(&self, resource: &Resource) -> Result<Option<(String, Vec<String>)>> {
        let config = self.session(resource)?.config().await?;
        let client = aws_sdk_firehose::Client::new(&config);
        let sent = client.describe_delivery_stream().delivery_stream_name(&resource.name).send().await;
        let Some(output) = failed("DescribeDeliveryStream", resource, sent)? else { return Ok(None) };
        let status = output.delivery_stream_description().map_or("?", |d| d.delivery_stream_status().as_str());
        let problems = if status == "ACTIVE" { Vec::new() } else { vec![format!("it is {status}, not ACTIVE")] };
        Ok(Some((status.to_owned(), problems)))
    }

    /// Makes a missing resource, and waits until it can be used. `shards` of `None` is on demand.
    ///
    /// # Errors
    /// The service refuses, or the resource is not ready after 5 minutes.
    pub async fn create(&self, resource: &Resource, shards: Option<i32>) -> Result<()> {
        match (&resource.kind, &resource.shape) {
            (Kind::Stream, _) => {
                let config = self.session(resource)?.config().await?;
                let mode = if shards.is_some() { StreamMode::Provisioned } else { StreamMode::OnDemand };
                let details = StreamModeDetails::builder().stream_mode(mode).build();
                let details = details.map_err(|e| Error::internal("a stream's mode").caused_by(e))?;
                let make = aws_sdk_kinesis::Client::new(&config).create_stream().stream_name(&resource.name);
                made("CreateStream", resource, make.stream_mode_details(details).set_shard_count(shards).send().await)?;
                self.wait(resource).await
            }
            (Kind::Table, Shape::Table { key, ttl }) => self.create_table(resource, key, ttl.as_deref()).await,
            (Kind::Topic, shape) => {
                let config = self.session(resource)?.config().await?;
                let mut make = aws_sdk_sns::Client::new(&config).create_topic().name(&resource.name);
                if *shape == (Shape::Topic { fifo: true }) {
                    make = make.attributes("FifoTopic", "true");
                }
                made("CreateTopic", resource, make.send().await)
            }
            (Kind::Bucket, _) => self.create_bucket(resource).await,
            _ => Err(Error::config(format!("{} is not made by this command", resource.title()))),
        }
    }

    async fn create_table(&self, resource: &Resource, key: &[KeyAttribute], ttl: Option<&str>) -> Result<()> {
        let config = self.session(resource)?.config().await?;
        let client = aws_sdk_dynamodb::Client::new(&config);
        let mut make = client.create_table().table_name(&resource.name).billing_mode(db::BillingMode::PayPerRequest);
        for (attribute, role) in key.iter().zip([db::KeyType::Hash, db::KeyType::Range]) {
            let definition = db::AttributeDefinition::builder()
                .attribute_name(&attribute.name)
                .attribute_type(db::ScalarAttributeType::from(attribute.letter))
                .build();
            let element = db::KeySchemaElement::builder().attribute_name(&attribute.name).key_type(role).build();
            let broken = |e| Error::internal("a key's description").caused_by(e);
            make = make.attribute_definitions(definition.map_err(broken)?).key_schema(element.map_err(broken)?);
        }
        made("CreateTable", resource, make.send().await)?;
        self.wait(resource).await?;
        if let Some(ttl) = ttl {
            let setting = db::TimeToLiveSpecification::builder().attribute_name(ttl).enabled(true).build();
            let setting = setting.map_err(|e| Error::internal("a time to live").caused_by(e))?;
            let set = client.update_time_to_live().table_name(&resource.name).time_to_live_specification(setting);
            made("UpdateTimeToLive", resource, set.send().await)?;
        }
        Ok(())
    }

    async fn create_bucket(&self, resource: &Resource) -> Result<()> {
        let (client, region) = self.s3(resource).await?;
        let mut make = client.create_bucket().bucket(&resource.name);
        if region != "us-east-1" {
            // The one region that must not be named.
            let place = s3::BucketLocationConstraint::from(region.as_str());
            let place = s3::CreateBucketConfiguration::builder().location_constraint(place).build();
            make = make.create_bucket_configuration(place);
        }
        made("CreateBucket", resource, make.send().await)?;
        let abort = s3::AbortIncompleteMultipartUpload::builder().days_after_initiation(ABORT_UPLOADS_DAYS).build();
        let rule = s3::LifecycleRule::builder()
            .id("abort-unfinished-uploads")
            .status(s3::ExpirationStatus::Enabled)
            .filter(s3::LifecycleRuleFilter::builder().prefix("").build())
            .abort_incomplete_multipart_upload(abort)
            .build();
        let broken = |e| Error::internal("a lifecycle rule").caused_by(e);
        let rules = s3::BucketLifecycleConfiguration::builder().rules(rule.map_err(broken)?).build();
        let set = client
            .put_bucket_lifecycle_configuration()
            .bucket(&resource.name)
            .lifecycle_configuration(rules.map_err(broken)?);
        made("PutBucketLifecycleConfiguration", resource, set.send().await)
    }

    /// Waits until a new stream or table can be used.
    async fn wait(&self, resource: &Resource) -> Result<()> {
        for _ in 0..LOOKS {
            if let State::Found { facts, .. } = self.look(resource).await
                && facts.starts_with("ACTIVE")
            {
                return Ok(());
            }
            self.clock.sleep(LOOK_AGAIN).await;
        }
        Err(Error::unavailable(format!("{} is not ACTIVE after 5 minutes", resource.title()))
            .hint("look at it in the console; the command may be given again"))
    }
}

fn made<E, O>(operation: &'static str, resource: &Resource, sent: Sent<O, E>) -> Result<()>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match failed(operation, resource, sent)? {
        Some(_) => Ok(()),
        None => Err(Error::unavailable(format!("{operation}: {} has disappeared", resource.title()))),
    }
}
