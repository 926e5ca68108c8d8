//! Which region and endpoint STS is asked in.

use std::process::Command;

use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::*;

/// Notes who is asked, and answers nobody.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl HttpConnector for Asked {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.0.lock().expect("in a test").push(request.uri().to_owned());
        HttpConnectorFuture::ready(Err(ConnectorError::io("the test has no network".into())))
    }
}

impl HttpClient for Asked {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// Tells the child that it is the child: what people set is in the environment of the process.
const FOLDER: &str = "SESSION_TEST_FOLDER";

#[tokio::test]
async fn sts_is_asked_in_the_region_that_is_set_wherever_it_is() {
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else {
        let folder = tempfile::tempdir().expect("in a test");
        let config = "[profile there]\nregion = eu-south-1\n[profile chained]\nregion = eu-west-3\n\
                      role_arn = arn:aws:iam::1:role/r\nsource_profile = base\n[profile base]\naws_access_key_id = A\n\
                      aws_secret_access_key = s\n";
        std::fs::write(folder.path().join("config"), config).expect("in a test");
        std::fs::write(folder.path().join("token"), "jwt").expect("in a test");
        // Without the crate's name, as the test is called.
        let name = module_path!().split_once("::").expect("in a test").1;
        let mut child = Command::new(std::env::current_exe().expect("in a test"));
        child.args([
            "--exact",
            &format!("{name}::sts_is_asked_in_the_region_that_is_set_wherever_it_is"),
            "--nocapture",
        ]);
        child.env_clear().env("PATH", "/usr/bin:/bin").env("AWS_EC2_METADATA_DISABLED", "true");
        child.env("AWS_PROFILE", "there").env("AWS_CONFIG_FILE", folder.path().join("config"));
        child.env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null").env(FOLDER, folder.path());
        let output = child.output().expect("in a test");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    };
    let token = folder.join("token").display().to_string();
    let web = [
        ("aws.credentials.provider", "WEB_IDENTITY_TOKEN"),
        ("aws.credentials.role.arn", "arn:aws:iam::1:role/r"),
        ("aws.credentials.webIdentityToken.file", token.as_str()),
    ];
    let role = [
        ("aws.credentials.provider", "ASSUME_ROLE"),
        ("aws.credentials.role.arn", "arn:aws:iam::1:role/r"),
        ("aws.credentials.role.provider", "PROFILE"),
        ("aws.credentials.profile.name", "base"),
        ("aws.region", "eu-north-1"),
    ];
    let chained = [("aws.credentials.provider", "PROFILE"), ("aws.credentials.profile.name", "chained")];
    let cases = [
        (web.to_vec(), "eu-south-1"),
        ([&web[..], &[("aws.region", "eu-central-1")]].concat(), "eu-central-1"),
        (chained.to_vec(), "eu-west-3"),
        // The endpoint of the table's service is not that of STS, however it is spelt.
        ([&role[..], &[("aws.endpoint", "http://localhost:1")]].concat(), "eu-north-1"),
        ([&role[..], &[("aws.endpoint-url", "http://localhost:1")]].concat(), "eu-north-1"),
    ];
    for (options, region) in cases {
        let asked = Asked::default();
        let sessions = AwsSessions::default();
        sessions.http.set(SharedHttpClient::new(asked.clone())).expect("in a test");
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let spec = options.iter().fold(TableSpec::new("t", schema), |spec, (k, v)| spec.with_option(k, *v));
        let config = sessions.of(&spec).expect("in a test").config().await.expect("in a test");
        let error = config.credentials_provider().expect("in a test").provide_credentials().await.unwrap_err();
        let asked = asked.0.lock().expect("in a test").clone();
        let of_region = format!("https://sts.{region}.amazonaws.com/");
        assert!(!asked.is_empty() && asked.iter().all(|uri| *uri == of_region), "{options:?}: {asked:?}, {error:?}");
    }
}
