//! The OpenAPI 3.1 document `docs/reference/openapi.json`, made from the table of routes, the types that handlers take and answer,
//! and the table of operations between both. The binary carries the committed document and tells it at `/api/v1/openapi.json`.
//!
//! What it is: a part of the tests alone (`operations`: a row for each method of each route; `conformance`: every answer that a test
//! of the API gets is held against it). What it is not: code that a node runs.
//! A new route needs a row in `operations::own`: `get("/api/v1/x").answers(200, json::<XReport>())`, where the type derives
//! `schemars::JsonSchema` in tests (`#[cfg_attr(test, derive(schemars::JsonSchema))]`).

pub mod conformance;
mod operation;
mod operations;
mod patroni;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::ROUTES;
use operation::Schemas;

/// Made once for all tests.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// What is written down.
pub fn page() -> String {
    serde_json::to_string_pretty(&*DOCUMENT).unwrap() + "\n"
}

fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    let operations = operations::operations();
    for route in ROUTES {
        let mut item = Map::new();
        for method in route.methods.split(", ") {
            let found = operations.iter().find(|row| (row.path, row.method) == (route.path, method));
            let row = found.unwrap_or_else(|| undescribed(method, route.path));
            let doc = doc_of(route.doc, method, route.methods);
            item.insert(method.to_ascii_lowercase(), row.object(doc, &mut schemas));
        }
        hoist_parameters(&mut item);
        paths.insert(route.path.to_owned(), Value::Object(item));
    }
    let mut components = schemas.components();
    components["securitySchemes"] = json!({ "password": {
        "type": "http",
        "scheme": "basic",
        "description": "A user of the file [http] users, with a role: viewer, operator or admin. The node's own machine needs none, \
                        unless [http] loopback = \"users\".",
    } });
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "pgherd",
            "version": "1",
            "description": "What each node answers on its HTTP port. Below /api/v1 is pgherd's own interface, whose names are a \
                            contract: it is extended, nothing is renamed. A reader must leave alone what it does not know. The other \
                            paths are Patroni's, with Patroni's status codes and names.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "pgherd", "description": "pgherd's own interface." },
            { "name": "Patroni", "description": "Patroni's interface: health checks, documents, changes." },
            { "name": "metrics", "description": "For Prometheus." },
            { "name": "dashboard", "description": "For a browser." },
        ],
        "paths": paths,
        "components": components,
    })
}

/// Those that all methods of a path have stand at the path.
fn hoist_parameters(item: &mut Map<String, Value>) {
    let Some(Some(shared)) = item.values().next().map(|first| first.get("parameters").cloned()) else {
        return;
    };
    if item.values().all(|operation| operation.get("parameters") == Some(&shared)) {
        let operations = item.values_mut().filter_map(Value::as_object_mut);
        operations.for_each(|operation| drop(operation.remove("parameters")));
        item.insert("parameters".to_owned(), shared);
    }
}

fn undescribed(method: &str, path: &str) -> ! {
    panic!(
        "the route {method} {path} has no row in crates/pgherd/src/api/openapi/operations.rs: add one to `own`, such as \
         {}(\"{path}\").answers(200, json::<TheReport>()), with #[cfg_attr(test, derive(schemars::JsonSchema))] on the type, and \
         then UPDATE_DOCS=1 cargo test -p pgherd --lib -- api::reference",
        method.to_ascii_lowercase()
    )
}

/// Of `GET: this. POST {…}: that.` what belongs to the method; the whole where it is not divided so.
fn doc_of<'d>(doc: &'d str, method: &str, methods: &str) -> &'d str {
    let mark = |method: &str| {
        let starts = [format!("{method}: "), format!("{method} {{"), format!("{method} `")];
        starts.iter().filter_map(|start| doc.find(start.as_str())).min()
    };
    let Some(begin) = mark(method) else { return doc };
    let end = methods.split(", ").filter_map(mark).filter(|end| *end > begin).min().unwrap_or(doc.len());
    let own = doc[begin + method.len()..end].trim_start_matches(':').trim();
    own.strip_suffix('.').unwrap_or(own)
}

/// Every `$ref` of a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_definition_is_led_to() {
    let mut found = BTreeSet::new();
    references(&DOCUMENT, &mut found);
    let of = |kind: &str| {
        let names = DOCUMENT["components"][kind].as_object().unwrap().keys();
        names.map(|name| format!("#/components/{kind}/{name}")).collect::<BTreeSet<String>>()
    };
    let defined = of("schemas").into_iter().chain(of("responses")).collect();
    assert_eq!(found, defined);
}

#[test]
fn every_route_and_method_is_there_once_and_nothing_else() {
    let rows = operations::operations();
    let described: Vec<(&str, &str)> = rows.iter().map(|row| (row.path, row.method)).collect();
    let wanted: Vec<(&str, &str)> = ROUTES
        .iter()
        .flat_map(|route| route.methods.split(", ").map(|method| (route.path, method)))
        .collect();
    for row in &described {
        assert!(wanted.contains(row), "{row:?} is in the table of operations and in no row of ROUTES");
        assert_eq!(described.iter().filter(|other| *other == row).count(), 1, "{row:?}");
    }
    for (path, method) in wanted {
        let operation = &DOCUMENT["paths"][path][method.to_ascii_lowercase()];
        assert!(operation["responses"].as_object().is_some_and(|codes| codes.len() > 1), "{method} {path}");
        assert!(operation["summary"].as_str().is_some_and(|doc| doc.len() > 3), "{method} {path}");
    }
}

#[test]
fn operations_have_names_of_their_own() {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    for operation in paths.values().flat_map(|item| item.as_object().unwrap().values()) {
        if let Some(name) = operation.get("operationId").and_then(Value::as_str) {
            *names.entry(name).or_default() += 1;
        }
    }
    assert!(names.contains_key("post_requests") && names.contains_key("get_requests_id"), "{names:?}");
    assert!(names.values().all(|count| *count == 1), "{names:?}");
}

#[test]
fn every_schema_is_one_of_draft_2020_12() {
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        assert!(schema.is_object(), "{name}");
        if let Err(error) = jsonschema::draft202012::meta::validate(schema) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn what_the_table_of_routes_says_of_each_method_is_told_apart() {
    let doc = "GET: who. POST {\"a\": N}: add. DELETE: gone.";
    let methods = "GET, POST, DELETE";
    let told: Vec<&str> = methods.split(", ").map(|method| doc_of(doc, method, methods)).collect();
    assert_eq!(told, ["who", "{\"a\": N}: add", "gone"]);
    assert_eq!(doc_of("All of it.", "GET", "GET"), "All of it.");
}
