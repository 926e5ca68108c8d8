//! Credentials, region and endpoint of a table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use object_store::client::HttpClient;
use tokio::sync::OnceCell;

use super::authorities::authorities;
use super::credentials::{HeldCredentials, LIMIT};
use crate::contracts::{Error, Result, SystemClock, TableSpec};

/// Time for a connection to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the first byte of an answer. GetRecords of 10 MB takes about 2 s at worst.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts within one call of the SDK. Connectors go on retrying by their own rules; this only hides blips.
const ATTEMPTS: u32 = 2;
/// The SDK asks our own credentials again so long before they expire, or half of it: those know when there are to be others. (Instances get new
/// ones 5 minutes before the old ones' end.)
const RENEWAL: Duration = Duration::from_secs(300);

/// The options that choose an account, region or endpoint, by their spelling in WITH.
const PREFIX: &str = "aws.";

/// Where a table's options say that AWS is, in either of their spellings.
pub(crate) fn endpoint_of(options: &BTreeMap<String, String>) -> Option<&str> {
    options.get("aws.endpoint").or_else(|| options.get("aws.endpoint-url")).map(String::as_str)
}

/// How AWS is called, where not as the environment and the tables' options say: over other HTTP clients, with another idea of time.
#[derive(Debug, Clone)]
pub struct Calling {
    /// Of the SDK's clients, with how often they try again.
    pub sdk: SdkConfig,
    /// Requests of `object_store`, for objects of S3. It repeats them itself, in its own time.
    pub objects: HttpClient,
}

/// Sessions of a job: tables with the same `aws.*` options share one, with its connections and cached credentials.
#[derive(Default)]
pub(crate) struct AwsSessions {
    /// How all calls are made, whatever the tables' options say.
    given: Option<Calling>,
    http: OnceLock<SharedHttpClient>,
    by_options: Mutex<BTreeMap<Vec<(String, String)>, AwsSession>>,
}

impl std::fmt::Debug for AwsSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options that it is keyed by have secrets.
        f.debug_struct("AwsSessions").finish_non_exhaustive()
    }
}

impl AwsSessions {
    /// Sessions that make all calls as `calling` says.
    pub(crate) fn given(calling: Calling) -> Self {
        let http = calling.sdk.http_client().map(OnceLock::from).unwrap_or_default();
        Self { given: Some(calling), http, by_options: Mutex::default() }
    }

    /// The session of a table. Nothing is asked of the network yet.
    pub(crate) fn of(&self, spec: &TableSpec) -> Result<AwsSession> {
        let mut options: BTreeMap<String, String> = spec
            .options
            .iter()
            .filter(|(key, _)| key.starts_with(PREFIX))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !options.contains_key("aws.region")
            && let Some(region) = region_of_arns(spec)
        {
            options.insert("aws.region".to_owned(), region);
        }
        self.with_options(options, &spec.name)
    }

    /// A session with nothing but what the environment says.
    pub(crate) fn default_session(&self) -> Result<AwsSession> {
        self.with_options(BTreeMap::new(), "")
    }

    fn with_options(&self, options: BTreeMap<String, String>, table: &str) -> Result<AwsSession> {
        if options.get("aws.trust.all.certificates").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
            return Err(Error::config(format!("table '{table}': 'aws.trust.all.certificates' is not supported"))
                .hint("put the certificate where the system looks for it, or name its file in AWS_CA_BUNDLE"));
        }
        let key: Vec<_> = options.clone().into_iter().collect();
        let mut sessions = self.by_options.lock().unwrap_or_else(PoisonError::into_inner);
        let http = match self.http.get() {
            Some(http) => http.clone(),
            None => {
                let made = http_client()?;
                self.http.get_or_init(|| made).clone()
            }
        };
        let config = OnceCell::new_with(self.given.as_ref().map(|given| given.sdk.clone()));
        let objects = self.given.as_ref().map(|given| given.objects.clone());
        let made = sessions.entry(key).or_insert_with(|| AwsSession {
            inner: Arc::new(Inner { options, table: table.to_owned(), http, config, objects }),
        });
        Ok(made.clone())
    }
}

/// Region named in one of the ARNs among a table's options.
fn region_of_arns(spec: &TableSpec) -> Option<String> {
    let arn =
        ["stream.arn", "topic.arn", "table.arn", "topic", "table-name"].iter().find_map(|key| spec.option(key))?;
    let mut parts = arn.split(':');
    (parts.next()? == "arn").then(|| parts.nth(2).map(str::to_owned)).flatten().filter(|r| !r.is_empty())
}

/// A client with connections of its own.
///
/// # Errors
/// The file that `AWS_CA_BUNDLE` names is not certificates.
fn http_client() -> Result<SharedHttpClient> {
    let mut tls = tls::TlsContext::builder();
    if let Some(authorities) = authorities()? {
        tls = tls.with_trust_store(authorities.trust_store());
    }
    let tls = tls.build().map_err(|e| Error::internal("settings of TLS").caused_by(e))?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .tls_context(tls)
        .build_https())
}

/// Where and as whom calls are made.
#[derive(Clone)]
pub(crate) struct AwsSession {
    inner: Arc<Inner>,
}

struct Inner {
    options: BTreeMap<String, String>,
    /// The first table that asked for it, for errors.
    table: String,
    http: SharedHttpClient,
    config: OnceCell<SdkConfig>,
    objects: Option<HttpClient>,
}

impl std::fmt::Debug for AwsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsSession").field("region", &self.option("aws.region")).finish_non_exhaustive()
    }
}

impl AwsSession {
    /// What clients are made from. The first call reads profiles and may ask a metadata service for the region.
    ///
    /// # Errors
    /// No region, or options that contradict each other.
    pub(crate) async fn config(&self) -> Result<SdkConfig> {
        self.inner.config.get_or_try_init(|| self.load()).await.cloned()
    }

    /// The same for clients whose calls [`Requests`](super::Requests) repeats. The SDK would pause within a call, up to a
    /// second at the first time, and publish again what may be published once only.
    pub(crate) async fn config_without_retries(&self) -> Result<SdkConfig> {
        Ok(self.config().await?.to_builder().retry_config(RetryConfig::disabled()).build())
    }

    /// An HTTP client with connections of its own; or the one that was given for all calls.
    pub(crate) fn http_apart(&self) -> Result<SharedHttpClient> {
        if self.inner.objects.is_some() { Ok(self.inner.http.clone()) } else { http_client() }
    }

    /// What requests for objects are made with, where that is given.
    pub(crate) fn objects(&self) -> Option<&HttpClient> {
        self.inner.objects.as_ref()
    }

    /// Whether the bucket's name stands in the path of S3's URLs (`true`) or in the host (`false`); `None` leaves it to
    /// the rules of AWS. Other S3 services and emulators know the path only.
    pub(crate) fn path_style(&self) -> Option<bool> {
        let own = self.option("aws.s3.path-style-access").map(|v| v.eq_ignore_ascii_case("true"));
        own.or_else(|| self.endpoint().is_some().then_some(true)).or_else(|| {
            // Of the service alone, or of all.
            let set = |name: &str| std::env::var(name).is_ok_and(|v| !v.is_empty());
            (set("AWS_ENDPOINT_URL_S3") || set("AWS_ENDPOINT_URL")).then_some(true)
        })
    }

    fn endpoint(&self) -> Option<&str> {
        endpoint_of(&self.inner.options)
    }

    fn option(&self, key: &str) -> Option<&str> {
        self.inner.options.get(key).map(String::as_str)
    }

    fn credential(&self, key: &str) -> Option<&str> {
        self.option(&format!("aws.credentials.provider.{key}"))
            .or_else(|| self.option(&format!("aws.credentials.{key}")))
    }

    fn require(&self, key: &str) -> Result<&str> {
        self.credential(key).ok_or_else(|| self.error(format!("the option 'aws.credentials.{key}' is missing")))
    }

    fn error(&self, message: String) -> Error {
        Error::config(format!("table '{}': {message}", self.inner.table))
    }

    fn loader(&self) -> ConfigLoader {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.inner.http.clone())
            // Their own limit comes first, and is known for what it is.
            .identity_cache(IdentityCache::lazy().buffer_time(RENEWAL).load_timeout(2 * LIMIT).build())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build(),
            );
        if let Some(region) = self.option("aws.region") {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(endpoint) = self.endpoint() {
            loader = loader.endpoint_url(endpoint);
        }
        loader
    }

    async fn load(&self) -> Result<SdkConfig> {
        let provider = self.option("aws.credentials.provider").unwrap_or("AUTO").to_ascii_uppercase();
        let config = match provider.as_str() {
            "ASSUME_ROLE" => self.assume_role().await?,
            other => self.provider(self.loader(), other).await?.load().await,
        };
        if config.region().is_none() {
            return Err(self
                .error("no AWS region is set".to_owned())
                .hint("set AWS_REGION, a region in the profile, or the option 'aws.region'"));
        }
        let Some(provider) = config.credentials_provider() else { return Ok(config) };
        let held = HeldCredentials::new(provider, Arc::new(SystemClock::new()));
        Ok(config.to_builder().credentials_provider(SharedCredentialsProvider::new(held)).build())
    }

    /// What a credentials provider of its own needs to make calls: STS is asked in the region where the table is.
    async fn provider_config(&self) -> ProviderConfig {
        let mut loader = self.loader();
        if let Some(name) = self.credential("profile.name") {
            loader = loader.profile_name(name);
        }
        let region = loader.load().await.region().cloned();
        ProviderConfig::without_region().with_region(region).with_http_client(self.inner.http.clone())
    }

    /// The loader with the named credentials.
    async fn provider(&self, loader: ConfigLoader, name: &str) -> Result<ConfigLoader> {
        match name {
            // The environment comes first in the default chain; SYS_PROP is the JVM's way to say the same.
            "AUTO" | "ENV_VAR" | "SYS_PROP" => Ok(loader),
            "BASIC" => {
                let (id, secret) = (self.require("basic.accesskeyid")?, self.require("basic.secretkey")?);
                Ok(loader.credentials_provider(Credentials::new(id, secret, None, None, "table options")))
            }
            "PROFILE" => {
                let mut profile = ProfileFileCredentialsProvider::builder().configure(&self.provider_config().await);
                let mut loader = loader;
                if let Some(name) = self.credential("profile.name") {
                    profile = profile.profile_name(name);
                    // The profile's region counts too.
                    loader = loader.profile_name(name);
                }
                if let Some(path) = self.credential("profile.path") {
                    profile = profile_from(profile, path);
                }
                Ok(loader.credentials_provider(profile.build()))
            }
            "WEB_IDENTITY_TOKEN" => {
                let Some(file) = self.credential("webIdentityToken.file") else { return Ok(loader) };
                let provider = WebIdentityTokenCredentialsProvider::builder()
                    .configure(&self.provider_config().await)
                    .static_configuration(StaticConfiguration {
                        web_identity_token_file: file.into(),
                        role_arn: self.require("role.arn")?.to_owned(),
                        session_name: self.credential("role.sessionName").unwrap_or("tidemill").to_owned(),
                    })
                    .build();
                Ok(loader.credentials_provider(provider))
            }
            other => Err(self
                .error(format!("credentials provider '{other}' is not supported"))
                .hint("AUTO, BASIC, PROFILE, ASSUME_ROLE, ENV_VAR or WEB_IDENTITY_TOKEN")),
        }
    }

    /// Credentials of another role, asked for with those of `aws.credentials.role.provider`.
    async fn assume_role(&self) -> Result<SdkConfig> {
        let role = self.require("role.arn")?;
        let base = self.credential("role.provider").unwrap_or("AUTO").to_ascii_uppercase();
        let mut own = self.provider(self.loader(), &base).await?.load().await;
        let mut sts = own.to_builder();
        // The endpoint of the table's service is not that of STS.
        sts.set_endpoint_url(self.credential("role.stsEndpoint").map(str::to_owned));
        if self.credential("role.stsEndpoint").is_none() && self.endpoint().is_none() {
            sts.set_endpoint_url(own.endpoint_url().map(str::to_owned));
        }
        let mut provider = AssumeRoleProvider::builder(role)
            .session_name(self.credential("role.sessionName").unwrap_or("tidemill"))
            .configure(&sts.build());
        if let Some(id) = self.credential("role.externalId") {
            provider = provider.external_id(id);
        }
        let provider = SharedCredentialsProvider::new(provider.build().await);
        own = own.to_builder().credentials_provider(provider).build();
        Ok(own)
    }
}

/// Profiles of a file of one's own, beside the usual configuration file.
#[expect(deprecated, reason = "the new names are in `aws-runtime`, which has no stable interface")]
fn profile_from(
    profile: aws_config::profile::credentials::Builder,
    path: &str,
) -> aws_config::profile::credentials::Builder {
    use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
    let files = ProfileFiles::builder().include_default_config_file(true);
    profile.profile_files(files.with_file(ProfileFileKind::Credentials, path).build())
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod region_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(options: &[(&str, &str)]) -> TableSpec {
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        options.iter().fold(TableSpec::new("t", schema), |spec, (k, v)| spec.with_option(k, *v))
    }

    #[tokio::test]
    async fn tables_with_the_same_options_share_a_session_and_secrets_are_not_shown() {
        let sessions = AwsSessions::default();
        let options = [
            ("stream", "a"),
            ("aws.region", "eu-west-1"),
            ("aws.credentials.provider", "BASIC"),
            ("aws.credentials.basic.accesskeyid", "AKIDEXAMPLE"),
            ("aws.credentials.basic.secretkey", "very-secret"),
        ];
        let one = sessions.of(&spec(&options)).unwrap();
        let other = sessions.of(&spec(&options)).unwrap();
        assert!(Arc::ptr_eq(&one.inner, &other.inner));
        let config = one.config().await.unwrap();
        assert_eq!(config.region().map(ToString::to_string).as_deref(), Some("eu-west-1"));
        assert!(!format!("{one:?}{sessions:?}").contains("very-secret"));
    }

    #[tokio::test]
    async fn the_region_comes_from_the_arn() {
        let sessions = AwsSessions::default();
        let arn = "arn:aws:kinesis:ap-south-1:123456789012:stream/events";
        let session = sessions.of(&spec(&[("stream.arn", arn)])).unwrap();
        assert_eq!(session.config().await.unwrap().region().map(ToString::to_string).as_deref(), Some("ap-south-1"));
    }

    #[tokio::test]
    async fn wrong_options_name_the_table() {
        let sessions = AwsSessions::default();
        for (options, expected) in [
            (&[("aws.region", "r"), ("aws.credentials.provider", "BASIC")][..], "basic.accesskeyid"),
            (&[("aws.region", "r"), ("aws.credentials.provider", "CUSTOM")], "'CUSTOM' is not supported"),
            (&[("aws.region", "r"), ("aws.credentials.provider", "ASSUME_ROLE")], "role.arn"),
        ] {
            let error = sessions.of(&spec(options)).unwrap().config().await.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("table 't'"), "{error}");
        }
        let trusting = spec(&[("aws.trust.all.certificates", "true")]);
        assert!(sessions.of(&trusting).unwrap_err().to_string().contains("AWS_CA_BUNDLE"));
    }
}
