//! Whose credentials a call is signed with: every way in which people give them to AWS' tools, and a table's own options.
//!
//! The stub notes the access key and token of each caller; another one stands for STS, the container's and the instance's
//! metadata, and IAM Identity Center.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::ErrorKind;
use tidemill::contracts::StartPosition::TrimHorizon;

use crate::aws_stub::{AwsStub, Fault};
use crate::http::{Reply, Request, Server, Service};
use crate::run;

/// Gives a key named after the way to whoever asks for it properly.
#[derive(Default)]
struct Issuer {
    asked: Mutex<Vec<String>>,
}

const EXPIRES: &str = "2099-01-01T00:00:00Z";

fn of_sts(operation: &str, key: &str) -> Reply {
    let credentials = format!(
        "<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>token-of-{key}</SessionToken><Expiration>{EXPIRES}</Expiration></Credentials>"
    );
    let user = "<AssumedRoleUser><AssumedRoleId>A:s</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/s</Arn></AssumedRoleUser>";
    let xmlns = "https://sts.amazonaws.com/doc/2011-06-15/";
    let text = format!(
        "<{operation}Response xmlns=\"{xmlns}\"><{operation}Result>{user}{credentials}</{operation}Result></{operation}Response>"
    );
    Reply::Answer(200, text.into_bytes())
}

fn of_metadata(key: &str) -> Reply {
    let text = format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{key}\",\"SecretAccessKey\":\"s\",\
         \"Token\":\"token-of-{key}\",\"Expiration\":\"{EXPIRES}\",\"LastUpdated\":\"2026-01-01T00:00:00Z\"}}"
    );
    Reply::Answer(200, text.into_bytes())
}

#[async_trait]
impl Service for Issuer {
    async fn answer(&self, request: Request) -> Reply {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
        let signer =
            header("authorization").split("Credential=").nth(1).and_then(|c| c.split('/').next()).unwrap_or("");
        self.asked.lock().unwrap().push(format!("{} signed by '{signer}' {body}", request.line));
        let denied = || Reply::error(403, "AccessDenied", "not so");
        match request.line.as_str() {
            "POST /" if body.contains("Action=AssumeRole&") => of_sts("AssumeRole", "ASSUMED"),
            "POST /" if body.contains("Action=AssumeRoleWithWebIdentity&") && body.contains("WebIdentityToken=jwt") => {
                of_sts("AssumeRoleWithWebIdentity", "WEBIDENTITY")
            }
            "GET /container" if header("authorization") == "container-token" => of_metadata("CONTAINER"),
            "PUT /latest/api/token" => {
                Reply::With("x-aws-ec2-metadata-token-ttl-seconds: 21600", b"metadata-token".to_vec())
            }
            line if line.starts_with("GET /latest/meta-data/iam/security-credentials") => {
                match (header("x-aws-ec2-metadata-token"), line.ends_with("/worker")) {
                    ("metadata-token", true) => of_metadata("INSTANCE"),
                    ("metadata-token", false) => Reply::Answer(200, b"worker".to_vec()),
                    _ => denied(),
                }
            }
            line if line.starts_with("GET /federation/credentials")
                && header("x-amz-sso_bearer_token") == "sso-token" =>
            {
                let text = "{\"roleCredentials\":{\"accessKeyId\":\"SSO\",\"secretAccessKey\":\"s\",\
                            \"sessionToken\":\"token-of-SSO\",\"expiration\":4070908800000}}";
                Reply::Answer(200, text.as_bytes().to_vec())
            }
            _ => denied(),
        }
    }
}

/// A way to give credentials.
struct Way<'a> {
    name: &'a str,
    environment: &'a [(&'a str, &'a str)],
    /// Of the table.
    options: &'a [(&'a str, &'a str)],
    /// The key that calls are signed with, and whether a session token goes with it.
    key: &'a str,
    temporary: bool,
    /// What the issuer must have been asked.
    asked: &'a [&'a str],
}

const ENVIRONMENT: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "ENVIRONMENT"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "eu-west-1")];

const CONFIG: &str = "
[profile plain]
region = eu-west-1
[profile process]
region = eu-west-1
credential_process = HOME/process
[profile chained]
region = eu-west-1
role_arn = arn:aws:iam::1:role/chained
source_profile = plain
external_id = from-the-profile
[profile sso]
region = eu-west-1
sso_session = company
sso_account_id = 111122223333
sso_role_name = Analyst
[sso-session company]
sso_region = eu-west-1
sso_start_url = https://company.awsapps.com/start
";

fn write_home(home: &Path) {
    std::fs::create_dir_all(home.join(".aws/sso/cache")).unwrap();
    std::fs::write(home.join(".aws/config"), CONFIG.replace("HOME", &home.display().to_string())).unwrap();
    std::fs::write(home.join(".aws/credentials"), "[plain]\naws_access_key_id = PLAIN\naws_secret_access_key = s\n")
        .unwrap();
    std::fs::write(home.join("elsewhere"), "[far]\naws_access_key_id = FAR\naws_secret_access_key = s\n").unwrap();
    std::fs::write(home.join("jwt"), "jwt").unwrap();
    std::fs::write(home.join("container-token"), "container-token").unwrap();
    let process = "#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":\"PROCESS\",\"SecretAccessKey\":\"s\"}'\n";
    std::fs::write(home.join("process"), process).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(home.join("process"), executable).unwrap();
    // Named after the SHA-1 of the session's name, as the CLI does.
    let token = format!("{{\"accessToken\":\"sso-token\",\"expiresAt\":\"{EXPIRES}\",\"region\":\"eu-west-1\"}}");
    std::fs::write(home.join(".aws/sso/cache/71b21161ffa1e6516bcc072aaf5ef38cbe85b511.json"), token).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_signed_by_whoever_people_say() {
    let stub = AwsStub::start().await;
    stub.create("clicks", 1);
    let issuer = Arc::new(Issuer::default());
    let server = Server::start(issuer.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    write_home(home);
    let (url, jwt, token) = (server.url(), home.join("jwt"), home.join("container-token"));
    let (jwt, token, far) = (jwt.to_str().unwrap(), token.to_str().unwrap(), home.join("elsewhere"));
    let container = format!("{url}/container");
    let region = ("AWS_REGION", "eu-west-1");
    let role = "arn:aws:iam::1:role/r";
    let ways = [
        Way {
            name: "environment",
            environment: &ENVIRONMENT,
            options: &[],
            key: "ENVIRONMENT",
            temporary: false,
            asked: &[],
        },
        Way {
            name: "a profile, with its region",
            environment: &[("AWS_PROFILE", "plain")],
            options: &[],
            key: "PLAIN",
            temporary: false,
            asked: &[],
        },
        Way {
            name: "a profile's process",
            environment: &[("AWS_PROFILE", "process")],
            options: &[],
            key: "PROCESS",
            temporary: false,
            asked: &[],
        },
        Way {
            name: "a profile of a table, in a file of its own, before the environment",
            environment: &ENVIRONMENT,
            options: &[
                ("aws.credentials.provider", "PROFILE"),
                ("aws.credentials.profile.name", "far"),
                ("aws.credentials.profile.path", far.to_str().unwrap()),
            ],
            key: "FAR",
            temporary: false,
            asked: &[],
        },
        Way {
            name: "a profile's role, with an external id",
            environment: &[("AWS_PROFILE", "chained")],
            options: &[],
            key: "ASSUMED",
            temporary: true,
            asked: &["signed by 'PLAIN'", "ExternalId=from-the-profile", "role%2Fchained"],
        },
        Way {
            name: "a role of a table, with an external id",
            environment: &ENVIRONMENT,
            options: &[
                ("aws.credentials.provider", "ASSUME_ROLE"),
                ("aws.credentials.role.arn", role),
                ("aws.credentials.role.externalId", "from-the-table"),
                ("aws.credentials.role.sessionName", "session-of-the-table"),
            ],
            key: "ASSUMED",
            temporary: true,
            asked: &["signed by 'ENVIRONMENT'", "ExternalId=from-the-table", "RoleSessionName=session-of-the-table"],
        },
        Way {
            name: "web identity (IRSA)",
            environment: &[region, ("AWS_WEB_IDENTITY_TOKEN_FILE", jwt), ("AWS_ROLE_ARN", role)],
            options: &[],
            key: "WEBIDENTITY",
            temporary: true,
            asked: &["RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr"],
        },
        Way {
            name: "web identity of a table",
            environment: &ENVIRONMENT,
            options: &[
                ("aws.credentials.provider", "WEB_IDENTITY_TOKEN"),
                ("aws.credentials.role.arn", role),
                ("aws.credentials.webIdentityToken.file", jwt),
            ],
            key: "WEBIDENTITY",
            temporary: true,
            asked: &["WebIdentityToken=jwt"],
        },
        Way {
            name: "a task of ECS",
            environment: &[
                region,
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token"),
            ],
            options: &[],
            key: "CONTAINER",
            temporary: true,
            asked: &["GET /container"],
        },
        Way {
            name: "EKS pod identity",
            environment: &[
                region,
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
            ],
            options: &[],
            key: "CONTAINER",
            temporary: true,
            asked: &["GET /container"],
        },
        Way {
            name: "IAM Identity Center (SSO)",
            environment: &[("AWS_PROFILE", "sso")],
            options: &[],
            key: "SSO",
            temporary: true,
            asked: &["account_id=111122223333", "role_name=Analyst"],
        },
        Way {
            name: "an instance's role",
            environment: &[region, ("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)],
            options: &[],
            key: "INSTANCE",
            temporary: true,
            asked: &["PUT /latest/api/token"],
        },
    ];
    for way in ways {
        let options: String = way.options.iter().map(|(key, value)| format!(", '{key}' = '{value}'")).collect();
        let sql = format!(
            "CREATE TABLE clicks (n BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json'{options});
             CREATE TABLE out (n BIGINT) WITH ('connector' = 'print');
             INSERT INTO out SELECT n FROM clicks;"
        );
        std::fs::write(home.join("job.sql"), sql).unwrap();
        issuer.asked.lock().unwrap().clear();
        stub.state().callers.clear();
        // Nothing of the caller's own.
        let mut environment = BTreeMap::from([
            ("PATH", "/usr/bin:/bin"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ENDPOINT_URL_STS", &url),
            ("AWS_ENDPOINT_URL_SSO", &url),
        ]);
        environment.extend(way.environment.iter().copied());
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job.sql", "--drain"]).current_dir(home).env_clear().env("HOME", home);
        command.env("AWS_ENDPOINT_URL_KINESIS", stub.endpoint()).envs(environment);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let asked = issuer.asked.lock().unwrap().join("\n");
        assert!(output.status.success(), "{}: {said}\n{asked}", way.name);
        let session = if way.temporary { format!("token-of-{}", way.key) } else { String::new() };
        let callers: Vec<_> = stub.state().callers.iter().cloned().collect();
        assert_eq!(callers, [(way.key.to_owned(), session)], "{}", way.name);
        for part in way.asked {
            assert!(asked.contains(part), "{}: '{part}' in {asked}", way.name);
        }
    }
}

/// New ones are on their way when a token has expired: a call that was signed with the old one is made again. Only a start does not
/// wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_has_expired_is_waited_for() {
    for way in [run::Way::Polling, run::Way::FanOut] {
        let stub = AwsStub::start().await;
        stub.create("s", 1);
        stub.put("s", "k", "x");
        let expired = || Fault::Error(400, "ExpiredTokenException");
        stub.fail("DescribeStreamSummary", 2, expired());
        for call in ["ListShards", "GetRecords", "SubscribeToShard"] {
            stub.fail_for(call, Duration::from_secs(3), expired());
        }
        let mut job = run::Job::new(&stub, way, "s", &[]);
        let seen = job.run(TrimHorizon, |s| !s.records.is_empty()).await.unwrap();
        assert_eq!(seen.records[0].data, "x");
        assert_eq!(stub.faults_left(), 0);
        stub.fail_for("DescribeStreamSummary", Duration::from_secs(60), expired());
        let mut job = run::Job::new(&stub, way, "s", &[]);
        job.hurry(60);
        let error = job.run(TrimHorizon, |_| false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("wrong or expired: check the profile"), "{error}");
    }
}
