//! The machine's own identity is the operator's to give away, and no caller's to use.
//!
//! On the real CLI, in a network that has this machine alone, with stand-ins for the metadata service and for the provider.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
};

use copilot_grpc::grpc::pb::{
    CreateSessionRequest, ErrorReason, NamedProvider, Provider, ProviderModel, ResumeSessionRequest,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tonic::Code;

use crate::support::{check, facade::TestFacade, fields_of, real_cli::RealCli};
use scripted_model::Reply;

/// What the metadata service hands out.
const TOKEN: &str = "the-machines-own-token";

/// Where the metadata service is on all the machines of a cloud.
const METADATA: &str = "169.254.169.254:80";

/// Runs this file's other test in a network of its own.
#[test]
fn the_machines_own_identity_goes_where_the_operator_says_and_to_no_caller() {
    let script = "ip link set lo up && ip addr add 169.254.169.254/32 dev lo && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["identity::in_a_network_of_its_own", "--exact", "--ignored", "--nocapture"])
        .output();
    let (ran, told) = match &output {
        Ok(output) => {
            let told = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            (told.contains("running 1 test"), told)
        }
        Err(error) => (false, error.to_string()),
    };
    if !ran {
        // Without root there is no network of one's own. Where it counts, that is a failure.
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no network of its own: {told}");
        eprintln!("SKIPPED, NOT SHOWN: it needs root, `unshare` and `ip`: {told}");
        return;
    }
    assert!(output.unwrap().status.success(), "{told}");
}

/// What stand-ins were asked, whole.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|request| request.contains(text))
    }
}

/// Answers every HTTP request alike.
async fn stand_in(address: &str, answer: String) -> (String, Asked) {
    let listener = TcpListener::bind(address).await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap().to_string(), Asked::default());
    let told = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 * 1024];
            let read = stream.read(&mut request).await.unwrap_or(0);
            told.0.lock().unwrap().push(String::from_utf8_lossy(&request[..read]).into_owned());
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            let _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
        }
    });
    (address, asked)
}

fn create(session_id: &str, kind: &str, base_url: &str) -> CreateSessionRequest {
    let provider = Provider { r#type: kind.into(), base_url: base_url.into(), ..Default::default() };
    CreateSessionRequest {
        session_id: session_id.into(),
        model: "m".into(),
        provider: Some(provider),
        ..Default::default()
    }
}

#[tokio::test]
#[ignore = "needs a network of its own, which the test above makes"]
async fn in_a_network_of_its_own() {
    let expires = "9999999999";
    let token = format!(
        r#"{{"access_token": "{TOKEN}", "expires_in": "86400", "expires_on": "{expires}", "not_before": "0", "resource": "r", "token_type": "Bearer"}}"#
    );
    let (_, metadata) = stand_in(METADATA, token).await;
    let (provider, asked) = stand_in("127.0.0.1:0", "{}".into()).await;
    let base_url = format!("http://{provider}");
    let cli = RealCli::start(|_| Reply::text("fine")).await;

    // A caller's provider gets nothing, however it is brought.
    let facade = cli.facade().await;
    let azure = create("azure", "azure", &base_url);
    let refused = facade.client().create_session(azure.clone()).await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["provider.api_key"]);
    let named = NamedProvider {
        name: "n".into(),
        r#type: "azure".into(),
        base_url: base_url.clone(),
        headers: BTreeMap::from([("api-key".into(), "k".into())]),
        ..Default::default()
    };
    let several = CreateSessionRequest {
        model: "n/m".into(),
        providers: vec![named.clone()],
        models: vec![ProviderModel { id: "m".into(), provider: "n".into(), ..Default::default() }],
        ..Default::default()
    };
    let refused = facade.client().create_session(several).await.unwrap_err();
    assert_eq!(fields_of(&refused), ["providers[0].api_key"]);
    facade.create("stored").await;
    let resume = ResumeSessionRequest {
        session_id: "stored".into(),
        provider: azure.provider.clone(),
        ..Default::default()
    };
    let refused = facade.client().resume_session(resume).await.unwrap_err();
    assert_eq!(fields_of(&refused), ["provider.api_key"]);
    // Other kinds, without a key and with one in the headers, have no identity to fall back to.
    for (n, kind) in ["", "openai", "anthropic"].into_iter().enumerate() {
        let session = format!("keyless-{n}");
        facade.client().create_session(create(&session, kind, &base_url)).await.unwrap();
        turn(&facade, &session).await;
        assert!(asked.count() > 0, "{kind}: the provider was not asked");
    }
    assert!(metadata.count() == 0 && !asked.has(TOKEN), "the machine's identity was asked for");

    // The operator's own configuration may use it. So the stand-ins are good for something, too.
    let operators = || {
        let setup = cli.setup().variable("COPILOT_PROVIDER_TYPE", "azure");
        setup.variable("COPILOT_PROVIDER_BASE_URL", &*base_url)
    };
    facade.stop().await;
    let facade = operators().start().await;
    facade.create("operators").await;
    turn(&facade, "operators").await;
    assert!(metadata.count() > 0 && asked.has(TOKEN), "{} {:?}", metadata.count(), asked.0.lock().unwrap());
    // A key in the headers does not keep it from that.
    asked.0.lock().unwrap().clear();
    facade.stop().await;
    let facade = operators().variable("COPILOT_PROVIDER_HEADERS", "api-key: k").start().await;
    facade.create("with-headers").await;
    turn(&facade, "with-headers").await;
    assert!(asked.has(TOKEN), "a key in the headers is enough: {:?}", asked.0.lock().unwrap());
}

/// A turn of which it does not matter how it ends: the provider makes no sense.
async fn turn(facade: &TestFacade, session: &str) {
    let mut request = tonic::Request::new(crate::support::facade::wait(session, "hello"));
    request.set_timeout(std::time::Duration::from_secs(8));
    let _ = facade.client().send_and_wait(request).await;
}
