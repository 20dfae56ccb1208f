//! Nothing that a newer CLI may tell or ask is lost, and nothing hangs: what the service does not know is passed on.
//!
//! Every kind of event and request of its schemas comes in forms that nobody has seen.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use copilot_grpc::{
    backend::process::discover::Form,
    copilot::event::is_known,
    grpc::pb::{SessionEvent, WatchSessionRequest, session_event::Payload},
};
use serde_json::{Map, Value, json};

use crate::support::{facade::Watcher, fake_cli::FakeCli, real_cli::pinned};

/// A schema file of the pinned CLI, or of the one that `CLI_SCHEMAS` names.
fn schemas(file: &str) -> Value {
    let folder = env::var_os("CLI_SCHEMAS").map(PathBuf::from).unwrap_or_else(|| {
        let program = pinned(Form::Native).path;
        program.ancestors().nth(3).expect("it is in a package").join("schemas")
    });
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

/// Makes up JSON of a schema: no text of it comes twice.
struct Sampler<'a> {
    definitions: &'a Value,
    texts: u32,
    /// Whether what is one of some values is another one.
    surprising: bool,
}

impl<'a> Sampler<'a> {
    fn of(file: &'a Value) -> Self {
        Self { definitions: &file["definitions"], texts: 0, surprising: false }
    }

    fn sample(&mut self, schema: &Value, depth: u32) -> Value {
        if depth > 12 {
            return Value::Null;
        }
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            let definitions = self.definitions;
            return self.sample(&definitions[name], depth + 1);
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(values) = schema["enum"].as_array() {
            return if self.surprising { "surprise".into() } else { values[0].clone() };
        }
        if let Some(alternatives) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            let is_something = |schema: &&Value| schema["type"] != "null" && schema.get("not").is_none();
            return alternatives
                .iter()
                .find(is_something)
                .map_or(Value::Null, |it| self.sample(it, depth + 1));
        }
        let kind = schema["type"].as_str().or(schema["type"][0].as_str()).unwrap_or("object");
        match kind {
            "object" => {
                let fields = schema["properties"].as_object();
                let fields = fields.into_iter().flatten();
                fields
                    .map(|(name, schema)| (name.clone(), self.sample(schema, depth + 1)))
                    .collect::<Map<_, _>>()
                    .into()
            }
            "array" => json!([self.sample(&schema["items"], depth + 1)]),
            "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1)),
            "boolean" => json!(true),
            "string" if schema["format"] == "date-time" => json!("2026-11-23T14:30:00.000Z"),
            "string" => {
                self.texts += 1;
                format!("text {}", self.texts).into()
            }
            _ => Value::Null,
        }
    }
}

/// What an event of a kind may carry: all that its schema has; that without each field that need not be there, or with `null` for it; with
/// values that no schema has; with fields that no schema has.
fn forms(sampler: &mut Sampler<'_>, schema: &Value) -> Vec<Value> {
    let whole = sampler.sample(schema, 0);
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let fields: Vec<_> = whole.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let mut forms = vec![whole];
    for field in fields.iter().filter(|field| !required.contains(&json!(field))) {
        for absent in [true, false] {
            let mut data = sampler.sample(schema, 0);
            match absent {
                true => drop(data.as_object_mut().unwrap().remove(field)),
                false => data[field] = Value::Null,
            }
            forms.push(data);
        }
    }
    sampler.surprising = true;
    forms.push(sampler.sample(schema, 0));
    sampler.surprising = false;
    let mut more = sampler.sample(schema, 0);
    if let Some(fields) = more.as_object_mut() {
        fields.insert("surprise".into(), json!({"of": [1, null, "text"]}));
    }
    forms.push(more);
    forms
}

/// Each kind of event, with the forms of what it carries.
fn events() -> BTreeMap<String, Vec<Value>> {
    let file = schemas("session-events.schema.json");
    let mut sampler = Sampler::of(&file);
    let events = file["definitions"].as_object().unwrap().values().filter_map(|event| {
        let kind = event.pointer("/properties/type/const")?.as_str()?;
        let data = event.pointer("/properties/data")?;
        let data =
            data["$ref"].as_str().map_or(data, |path| &file["definitions"][path.rsplit('/').next().unwrap()]);
        Some((kind.to_owned(), forms(&mut sampler, data)))
    });
    events.collect()
}

/// Tells an event of a session, with fields of a time to come.
async fn tell(cli: &FakeCli, session: &str, (id, kind, data): (&str, &str, &Value)) {
    let event = json!({"type": kind, "data": data, "id": id, "timestamp": "2026-11-23T14:30:00.000Z",
        "parentId": null, "ephemeral": id.ends_with("even"), "surprise": {"a": [1]}});
    cli.notify("session.event", json!({"sessionId": session, "event": event, "surprise": 1})).await;
}

/// The next events until one of this id.
async fn read_to(watcher: &mut Watcher, id: &str) -> Vec<SessionEvent> {
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &SessionEvent| event.event_id != id) {
        events.push(watcher.event().await.unwrap());
    }
    events
}

#[tokio::test]
async fn events_of_every_kind_and_form_reach_who_watches_and_no_turn_hangs() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    let (mut told, mut kinds) = (0, 0);
    for (kind, forms) in events() {
        let session = kind.replace('.', "-");
        facade.create(&session).await;
        let request = WatchSessionRequest {
            session_id: session.clone(),
            event_types: vec!["*".into()],
            ..Default::default()
        };
        let mut watcher = facade.watch(request).await.unwrap();
        let mut sent = Vec::new();
        for (n, data) in forms.iter().enumerate() {
            let id = format!("{kind} {n} {}", if n % 2 == 0 { "even" } else { "odd" });
            tell(&cli, &session, (&id, &kind, data)).await;
            sent.push(id);
        }
        let last = format!("{kind} last");
        tell(&cli, &session, (&last, "session.idle", &json!({}))).await;
        sent.push(last.clone());
        let heard = read_to(&mut watcher, &last).await;
        // Behind what it is told there may be what the service makes of it, such as a warning.
        let ids: Vec<_> = heard.iter().map(|event| event.event_id.clone()).collect();
        let missing: Vec<_> =
            sent.iter().filter(|id| ids.iter().filter(|other| other == id).count() != 1).collect();
        assert!(missing.is_empty(), "not once: {missing:?}");
        for event in heard.iter().filter(|event| event.event_id != last) {
            let is_passed_on = matches!(&event.payload, Some(Payload::Other(other)) if other.r#type == kind);
            assert!(is_known(&kind) || is_passed_on, "{event:?}");
        }
        cli.turn_of(&facade, &session).await;
        (told, kinds) = (told + sent.len(), kinds + 1);
    }
    println!("{told} events of {kinds} kinds");
    assert!(kinds > 150, "{kinds} kinds");
}

#[tokio::test]
async fn requests_of_every_kind_are_answered() {
    let cli = FakeCli::start().await;
    let facade = cli.setup().start().await;
    facade.create("s").await;
    let file = schemas("api.schema.json");
    let mut sampler = Sampler::of(&file);
    let mut methods = BTreeMap::from([("surprise.now".to_owned(), json!({"sessionId": "s"}))]);
    for side in ["clientSession", "clientGlobal"] {
        collect(&file[side], &mut |name, schema| {
            let mut params = sampler.sample(schema, 0);
            if let Some(session) = params.get_mut("sessionId") {
                *session = "s".into();
            }
            methods.insert(name.into(), params);
        });
    }
    assert!(methods.len() > 5, "{methods:?}");
    for (method, params) in &methods {
        cli.request(json!(method), method, params.clone()).await;
        let answer = cli.answer_to(json!(method)).await;
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    cli.turn_of(&facade, "s").await;
}

/// The methods below a part of the API, each with the schema of its parameters.
fn collect(api: &Value, found: &mut impl FnMut(&str, &Value)) {
    let Value::Object(fields) = api else { return };
    if let Some(name) = api["rpcMethod"].as_str() {
        found(name, &api["params"]);
    }
    fields.values().for_each(|below| collect(below, found));
}
