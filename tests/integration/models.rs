//! The models that are listed are those that there are: the operator's on the real CLI, GitHub's as a FakeCli plays it.

use copilot_grpc::grpc::pb::{ErrorReason, ListModelsRequest, Model};
use serde_json::json;
use tempfile::NamedTempFile;
use tonic::{Code, Status};

use crate::support::{
    check,
    facade::{Setup, TestFacade},
    fake_cli::FakeCli,
    fields_of,
    real_cli::{MODEL, RealCli},
    soon,
};

async fn list(facade: &TestFacade, profile: &str, github_token: &str) -> Result<Vec<Model>, Status> {
    let request = ListModelsRequest { profile: profile.into(), github_token: github_token.into() };
    Ok(facade.client().list_models(request).await?.into_inner().models)
}

fn ids(models: &[Model]) -> Vec<&str> {
    models.iter().map(|model| model.id.as_str()).collect()
}

async fn start(setup: Setup, file: &str) -> TestFacade {
    let config = NamedTempFile::new().unwrap();
    std::fs::write(config.path(), file).unwrap();
    setup.flag(format!("--config={}", config.path().display())).start().await
}

const PROFILES: &str = "
    [profiles.own]
    models = ['a', 'b-*', 'c']
    provider = { base_url = 'http://127.0.0.1:9/v1', max_prompt_tokens = 1000 }
    [profiles.gpt]
    models = ['gpt-*']
    [profiles.pays]
    github_token_env = 'PAYS'
";

#[tokio::test]
async fn of_a_provider_the_models_are_those_that_the_operator_has_named() {
    let cli = RealCli::start(|_| unreachable!("no model is called")).await;
    let facade = start(cli.setup().variable("PAYS", "ghu_team"), PROFILES).await;
    assert_eq!(ids(&list(&facade, "", "").await.unwrap()), [MODEL]);
    let own = list(&facade, "own", "").await.unwrap();
    assert_eq!((ids(&own), own[0].max_prompt_tokens), (vec!["a", "c"], 1000));
    let refused = list(&facade, "nobody", "").await.unwrap_err();
    check(&refused, Code::InvalidArgument, ErrorReason::InvalidField);
    assert_eq!(fields_of(&refused), ["profile"]);
}

#[tokio::test]
async fn without_a_login_there_are_no_models_and_the_caller_is_told_why() {
    let cli = RealCli::start(|_| unreachable!("no model is called")).await;
    let mut setup = cli.setup();
    setup.variables.retain(|name, _| name == "COPILOT_CONNECTION_TOKEN");
    let facade = setup.start().await;
    let refused = list(&facade, "", "").await.unwrap_err();
    check(&refused, Code::FailedPrecondition, ErrorReason::ProviderAuth);
    assert!(refused.message().contains("Not authenticated"), "{refused:?}");
}

#[tokio::test]
async fn githubs_models_are_told_whole_and_asked_for_once_for_each_account() {
    let cli = FakeCli::start().await;
    cli.manual("models.list");
    let facade = start(cli.setup().variable("PAYS", "ghu_team"), PROFILES).await;
    let models = json!([
        {
            "id": "gpt-5", "name": "GPT-5", "policy": {"state": "enabled", "terms": "x"},
            "capabilities": {
                "supports": {"vision": true, "reasoningEffort": true},
                "limits": {"max_prompt_tokens": 1, "max_output_tokens": 2, "max_context_window_tokens": 3},
            },
            "billing": {"multiplier": 0.5, "tokenPrices": {}},
            "supportedReasoningEfforts": ["low", "high"], "defaultReasoningEffort": "low",
        },
        {"id": "o3", "name": "o3", "capabilities": {}},
    ]);
    let answered = async |profile: &str, token: &str| {
        let asked = async {
            let call = soon("a question", cli.next("models.list")).await;
            let token = call.params["gitHubToken"].as_str().unwrap_or_default().to_owned();
            call.answer(json!({"models": models})).await;
            token
        };
        let (listed, token) = tokio::join!(list(&facade, profile, token), asked);
        (listed.unwrap(), token)
    };
    let (listed, token) = answered("", "ghu_mine").await;
    let expected = Model {
        id: "gpt-5".into(),
        name: "GPT-5".into(),
        vision: true,
        reasoning_efforts: vec!["low".into(), "high".into()],
        default_reasoning_effort: "low".into(),
        max_prompt_tokens: 1,
        max_output_tokens: 2,
        max_context_window_tokens: 3,
        policy_state: "enabled".into(),
    };
    let bare = Model { id: "o3".into(), name: "o3".into(), ..Default::default() };
    assert_eq!((listed, token.as_str()), (vec![expected, bare], "ghu_mine"));
    // Again, and under a profile that allows less, nobody is asked.
    assert_eq!(ids(&list(&facade, "", "ghu_mine").await.unwrap()), ["gpt-5", "o3"]);
    assert_eq!(ids(&list(&facade, "gpt", "ghu_mine").await.unwrap()), ["gpt-5"]);
    assert_eq!(cli.count("models.list"), 1);
    // Another account has its own.
    assert_eq!(answered("", "").await.1, "");
    assert_eq!(answered("pays", "").await.1, "ghu_team");
    assert_eq!(cli.count("models.list"), 3);
    let refused = list(&facade, "pays", "ghu_mine").await.unwrap_err();
    check(&refused, Code::PermissionDenied, ErrorReason::PolicyDenied);
    assert_eq!(fields_of(&refused), ["github_token"]);
}

#[tokio::test]
async fn a_refusal_is_not_remembered_and_does_not_show_the_token() {
    let cli = FakeCli::start().await;
    cli.manual("models.list");
    let facade = cli.setup().start().await;
    let refuse = async {
        let call = soon("a question", cli.next("models.list")).await;
        call.refuse(-32603, "Request models.list failed with message: token validation failed: ghu_mine")
            .await;
    };
    let (refused, ()) = tokio::join!(list(&facade, "", "ghu_mine"), refuse);
    let refused = refused.unwrap_err();
    check(&refused, Code::FailedPrecondition, ErrorReason::ProviderAuth);
    assert!(!refused.message().contains("ghu_mine"), "{refused:?}");
    let answer = async { cli.next("models.list").await.answer(json!({"models": []})).await };
    let (listed, ()) = tokio::join!(list(&facade, "", "ghu_mine"), answer);
    assert_eq!(listed.unwrap(), []);
}
