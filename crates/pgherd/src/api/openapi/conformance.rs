//! Whether an answer is one that the document describes: its code, its media type, its body.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::DOCUMENT;

/// An answer as a client has it.
pub struct Answer<'a> {
    pub method: &'a str,
    /// Without what stands behind the question mark.
    pub path: &'a str,
    pub code: u16,
    /// As the header has it; empty without one.
    pub media: &'a str,
    pub body: &'a [u8],
}

/// Made once each: a test asks hundreds of times.
static VALIDATORS: Mutex<BTreeMap<String, Validator>> = Mutex::new(BTreeMap::new());

/// The error says what the document has otherwise.
pub fn check(answer: &Answer) -> Result<(), String> {
    let Answer { method, path, code, media, body } = answer;
    let told = |what: &str| {
        let body = String::from_utf8_lossy(body);
        format!("{method} {path} was answered with {code} ({media}): {what}\n{body}")
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    // A path without a parameter goes before one that has it.
    let route = paths.keys().filter(|route| is_of(route, path)).min_by_key(|route| route.contains('{'));
    let Some(route) = route else {
        let error = if *code == 404 { Ok(()) } else { Err(told("the document has no such path")) };
        return error;
    };
    // What can be read can be asked for without its body.
    let get = paths[route].get("get").filter(|_| *method == "HEAD");
    let Some(operation) = paths[route].get(method.to_ascii_lowercase()).or(get) else {
        return if *code == 405 { Ok(()) } else { Err(told("the document has no such method")) };
    };
    let Some(response) = operation["responses"].get(code.to_string()) else {
        return Err(told("the document has no such code"));
    };
    let name = response["$ref"].as_str().and_then(|path| path.rsplit('/').next()).unwrap();
    let response = &DOCUMENT["components"]["responses"][name];
    if body.is_empty() {
        // Of these two the answers have no body but where the gate is asked by OPTIONS.
        let bodyless = response.get("content").is_none() || ["HEAD", "OPTIONS"].contains(method);
        return if bodyless { Ok(()) } else { Err(told("the document has a body")) };
    }
    let Some(contents) = response["content"].as_object() else {
        return Err(told("the document has no body"));
    };
    let plain = |media: &str| media.split(';').next().unwrap_or_default().trim().to_owned();
    let Some((media, content)) = contents.iter().find(|(known, _)| plain(known) == plain(media)) else {
        return Err(told("the document has no such media type"));
    };
    if media != "application/json" {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| told(&error.to_string()))?;
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let validator = validators
        .entry(name.to_owned())
        .or_insert_with(|| jsonschema::draft202012::new(&whole(&content["schema"])).unwrap());
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(told(&errors.join("\n"))) }
}

fn is_of(route: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (route.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if wanted == given => {}
            (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {}
            _ => return false,
        }
    }
}

/// With the definitions that it refers to, and stricter than what is told to readers: a field that no type has is an error.
pub fn whole(schema: &Value) -> Value {
    let mut definitions = DOCUMENT["components"]["schemas"].clone();
    for definition in definitions.as_object_mut().unwrap().values_mut() {
        if definition.get("properties").is_some() && definition.get("additionalProperties").is_none() {
            definition["unevaluatedProperties"] = json!(false);
        }
    }
    let mut whole = schema.clone();
    whole["components"] = json!({ "schemas": definitions });
    whole
}

/// The schema of a definition.
fn named(name: &str) -> Validator {
    let reference = json!({ "$ref": format!("#/components/schemas/{name}") });
    jsonschema::draft202012::new(&whole(&reference)).unwrap()
}

fn holds(name: &str, value: &Value) -> Result<(), String> {
    named(name).validate(value).map_err(|error| format!("{value} as {name}: {error}"))
}

/// Every request that can be asked for, with all its fields and with as few as can be.
fn asks() -> Vec<brain::Ask> {
    use brain::Ask;
    let (node, to) = (|| "n1".into(), || "n2".into());
    let all = vec![
        Ask::Switchover { to: Some(to()), at: Some(1_750_000_000), force: true },
        Ask::Switchover { to: None, at: None, force: false },
        Ask::Failover { to: to() },
        Ask::Restart { node: node(), force: true },
        Ask::Reload { node: node(), after: Some(7) },
        Ask::Reload { node: node(), after: None },
        Ask::Reinit { node: node() },
        Ask::Promote { force: false },
        Ask::Demote { hosts: vec!["h:5432".into()], slot: Some("s".into()) },
        Ask::Demote { hosts: Vec::new(), slot: None },
    ];
    for ask in &all {
        // Another variant needs a row above.
        match ask {
            Ask::Switchover { .. } | Ask::Failover { .. } | Ask::Restart { .. } | Ask::Reload { .. } => {}
            Ask::Reinit { .. } | Ask::Promote { .. } | Ask::Demote { .. } => {}
        }
    }
    all
}

#[test]
fn every_request_is_described_as_it_is_told_and_as_it_is_taken() {
    for ask in asks() {
        for stage in ["waiting", "preparing", "holding", "stopping", "running", "done", "failed"] {
            let stage: brain::Stage = serde_json::from_value(json!(stage)).unwrap();
            let (term, asked_at, note) = (brain::Term(2), 1_750_000_000, String::new());
            let request = brain::Request { id: 7, ask: ask.clone(), stage, term, asked_at, note };
            let told = serde_json::to_value(crate::api::RequestReport::from(&request)).unwrap();
            holds("RequestReport", &told).unwrap();
        }
        holds("Ask", &serde_json::to_value(&ask).unwrap()).unwrap();
    }
    for body in [json!({ "kind": "switchover" }), json!({ "kind": "promote" })] {
        serde_json::from_value::<brain::Ask>(body.clone()).unwrap();
        holds("Ask", &body).unwrap();
    }
    for wrong in [json!({ "kind": "failover" }), json!({ "kind": "dance" }), json!({})] {
        assert!(serde_json::from_value::<brain::Ask>(wrong.clone()).is_err());
        assert!(holds("Ask", &wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_node_with_everything_is_described() {
    let mut status = crate::api::tests::report("n1");
    let node = &mut status.nodes[0];
    let lsn: wire::Lsn = "16/B374D848".parse().unwrap();
    node.condition = brain::Condition {
        disk_full: true,
        free_bytes: Some(7),
        crowded: true,
        hung: true,
        progress: Some(brain::Progress { what: "copying".into(), done_bytes: 1, total_bytes: 2 }),
        stuck: Some("why".into()),
        lost: vec![brain::LostWrites {
            at: "2026-01-02T03:04:05Z".into(),
            fork: lsn,
            transactions: 1,
            relations: 1,
            bytes: 1,
            listed: "lost/".into(),
        }],
        pending: vec![brain::Pending {
            name: "max_connections".into(),
            old: "100".into(),
            new: "200".into(),
            note: Some("later".into()),
        }],
        outgrown: true,
    };
    node.tags = brain::Tags { replicatefrom: Some("n2".into()), zone: "a".into(), ..brain::Tags::default() };
    node.doors = Some(crate::agent::Doors::default());
    node.slots.slots = vec![crate::api::SlotLine {
        name: "s".into(),
        kind: "logical".into(),
        database: Some("d".into()),
        kept: true,
        active: true,
        restart_lsn: Some(lsn),
        confirmed_flush_lsn: Some(lsn),
        held_bytes: 1,
        budget_bytes: 2,
        owner: Some("me".into()),
        holds_back_vacuum: true,
        lost: Some("why".into()),
    }];
    let told = serde_json::to_value(&status).unwrap();
    holds("StatusReport", &told).unwrap();
    let mut more = told.clone();
    more["nodes"][0]["condition"]["colour"] = json!("blue");
    assert!(holds("StatusReport", &more).is_err(), "what no type has is noticed");
    let mut less = told;
    less["nodes"][0].as_object_mut().unwrap().remove("lsn");
    assert!(holds("StatusReport", &less).is_err(), "what is missing is noticed");
}

#[test]
fn an_answer_that_the_document_does_not_have_is_noticed() {
    let answer = |method, path, code, media, body: &'static str| {
        check(&Answer { method, path, code, media, body: body.as_bytes() })
    };
    let json = "application/json";
    assert_eq!(answer("GET", "/api/v1/requests/7", 404, json, "{\"error\": \"no\"}"), Ok(()));
    for (code, media, body, words) in [
        (418, json, "{}", "no such code"),
        (200, "text/plain", "x", "no such media type"),
        (200, json, "{}", "required"),
        (200, json, "", "has a body"),
        (404, json, "{\"fault\": \"no\"}", "required"),
    ] {
        let error = answer("GET", "/api/v1/requests/7", code, media, body).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert!(answer("GET", "/nonsense", 200, json, "{}").is_err());
    assert!(answer("HEAD", "/primary", 503, "", "").is_ok());
    assert!(answer("OPTIONS", "/primary", 503, json, "{}").is_err());
}
