//! One operation of a route: what it takes, what it answers, and who may.

use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::api::access::UserRole;

/// Answers with the schema of a type, and remembers its definition.
type Shape = fn(&mut SchemaGenerator) -> Schema;

/// The types' schemas, as far as they have been asked for.
///
/// What is told and what is taken differ: a field with a default is always told and need not be given.
pub struct Schemas {
    told: SchemaGenerator,
    taken: SchemaGenerator,
    /// By name.
    responses: Map<String, Value>,
}

/// A body.
#[derive(Clone, Copy)]
pub enum Content {
    /// What our own types serialise to.
    Json(Shape),
    /// JSON that is put together by hand; each field may be absent unless it is required.
    Document(Shape),
    /// Text of this media type.
    Text(&'static str),
    Nothing,
}

pub fn json<T: JsonSchema>() -> Content {
    Content::Json(SchemaGenerator::subschema_for::<T>)
}

pub fn document<T: JsonSchema>() -> Content {
    Content::Document(SchemaGenerator::subschema_for::<T>)
}

pub const TEXT: Content = Content::Text("text/plain");

/// Why not; every error but those of Patroni's changes.
#[derive(JsonSchema)]
#[schemars(rename = "Error")]
#[expect(dead_code, reason = "a schema alone: handlers write it by json!")]
pub struct Problem {
    /// What happened, why, and what to do.
    error: String,
}

/// One row of the table (`operations`).
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    role: UserRole,
    /// What the role and the route's own words do not say.
    note: &'static str,
    numbers: bool,
    query: Option<Shape>,
    takes: Option<(Shape, bool)>,
    answers: BTreeMap<u16, Vec<Content>>,
}

pub fn get(path: &'static str) -> Operation {
    operation("GET", path)
}

pub fn post(path: &'static str) -> Operation {
    operation("POST", path)
}

pub fn put(path: &'static str) -> Operation {
    operation("PUT", path)
}

pub fn patch(path: &'static str) -> Operation {
    operation("PATCH", path)
}

pub fn delete(path: &'static str) -> Operation {
    operation("DELETE", path)
}

/// With what the gate answers before the route is asked at all.
pub fn operation(method: &'static str, path: &'static str) -> Operation {
    let reads = matches!(method, "GET" | "HEAD" | "OPTIONS");
    let role = if reads { UserRole::Viewer } else { UserRole::Operator };
    let (takes, query, answers) = (None, None, BTreeMap::new());
    let of_gate: &[u16] = if reads { &[401, 503] } else { &[401, 403, 503] };
    Operation { method, path, role, note: "", numbers: false, query, takes, answers }.refuses(of_gate)
}

impl Operation {
    pub fn answers(mut self, code: u16, content: Content) -> Operation {
        self.answers.entry(code).or_default().push(content);
        self
    }

    /// With [`Problem`].
    pub fn refuses(self, codes: &[u16]) -> Operation {
        codes.iter().fold(self, |operation, code| operation.answers(*code, json::<Problem>()))
    }

    /// As a line of text.
    pub fn tells(self, codes: &[u16]) -> Operation {
        codes.iter().fold(self, |operation, code| operation.answers(*code, TEXT))
    }

    /// A body, which must be there.
    pub fn takes<T: JsonSchema>(mut self) -> Operation {
        self.takes = Some((SchemaGenerator::subschema_for::<T>, true));
        self
    }

    pub fn may_take<T: JsonSchema>(mut self) -> Operation {
        self.takes = Some((SchemaGenerator::subschema_for::<T>, false));
        self
    }

    /// Parameters behind the question mark: the fields of `T`.
    pub fn asks<T: JsonSchema>(mut self) -> Operation {
        self.query = Some(SchemaGenerator::subschema_for::<T>);
        self.tells(&[400])
    }

    /// What stands in the path is a number.
    pub fn numbered(mut self) -> Operation {
        self.numbers = true;
        self.tells(&[400])
    }

    pub fn needs(mut self, role: UserRole) -> Operation {
        self.role = role;
        self
    }

    pub fn note(mut self, note: &'static str) -> Operation {
        self.note = note;
        self
    }

    /// The Operation Object of OpenAPI; `doc` is what the table of routes says of this method.
    pub fn object(&self, doc: &str, schemas: &mut Schemas) -> Value {
        let who = match self.role {
            UserRole::Viewer => "Anybody who reaches the port may.".to_owned(),
            role => format!("Needs the role {}, or comes from the node's own machine.", role.word()),
        };
        let mut object = json!({
            "summary": doc,
            "description": format!("{who} {}", self.note).trim_end(),
            "tags": [self.tag()],
            "responses": self.responses(schemas),
        });
        if let Some(name) = self.path.strip_prefix("/api/v1/") {
            let name = name.replace(['/', '.', '-'], "_").replace(['{', '}'], "");
            object["operationId"] = json!(format!("{}_{name}", self.method.to_ascii_lowercase()));
        }
        let parameters = self.parameters(schemas);
        if !parameters.is_empty() {
            object["parameters"] = Value::Array(parameters);
        }
        if let Some((shape, required)) = self.takes {
            let schema = schemas.of(Content::Document(shape));
            object["requestBody"] =
                json!({ "required": required, "content": { "application/json": { "schema": schema } } });
        }
        object["security"] = match self.role {
            UserRole::Viewer => json!([{}]),
            role => json!([{ "password": [role.word()] }, {}]),
        };
        object
    }

    fn tag(&self) -> &'static str {
        match self.path {
            "/metrics" => "metrics",
            path if path.starts_with("/api/") => "pgherd",
            path if path.starts_with("/dashboard") => "dashboard",
            _ => "Patroni",
        }
    }

    fn parameters(&self, schemas: &mut Schemas) -> Vec<Value> {
        let kind = if self.numbers { "integer" } else { "string" };
        let in_path =
            self.path.split(['{', '}']).skip(1).step_by(2).map(
                |name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": kind } }),
            );
        in_path.chain(self.query.iter().flat_map(|shape| schemas.fields(*shape))).collect()
    }

    fn responses(&self, schemas: &mut Schemas) -> Value {
        let mut responses = Map::new();
        for (code, contents) in &self.answers {
            let mut by_media: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
            for content in contents {
                let media = match content {
                    Content::Json(_) | Content::Document(_) => "application/json",
                    Content::Text(media) => media,
                    Content::Nothing => continue,
                };
                let schema = schemas.of(*content);
                let known = by_media.entry(media).or_default();
                if !known.contains(&schema) {
                    known.push(schema);
                }
            }
            by_media.values_mut().for_each(|shapes| shapes.sort_by_key(Value::to_string));
            responses.insert(code.to_string(), schemas.response(*code, by_media));
        }
        Value::Object(responses)
    }
}

fn words(code: u16) -> &'static str {
    match code {
        200 => "Here it is, or it holds.",
        202 => "Written down; it is under way.",
        304 => "The same as the one that the caller has.",
        400 => "The question cannot be read.",
        401 => "User name or password is wrong, or a change from another machine names no user.",
        403 => "The user's role does not suffice, or a web page of another origin asks.",
        404 => "There is no such thing.",
        409 => "Not as things stand: the error says what stands in the way.",
        411 => "The body has no length.",
        412 => "Not as things stand: the text says what stands in the way.",
        422 => "What is asked for makes no sense here.",
        501 => "There is no such thing here; the error says what to do instead.",
        502 => "There is no such mode.",
        503 => "It does not hold, or it cannot be done or told at present.",
        other => panic!("say in `words` what an answer with {other} means"),
    }
}

impl Schemas {
    pub fn new() -> Schemas {
        let settings = schemars::generate::SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        let told = settings.clone().for_serialize().into_generator();
        let taken = settings.for_deserialize().into_generator();
        Schemas { told, taken, responses: Map::new() }
    }

    pub fn of(&mut self, content: Content) -> Value {
        match content {
            Content::Json(shape) => shape(&mut self.told).to_value(),
            Content::Document(shape) => shape(&mut self.taken).to_value(),
            Content::Text(_) | Content::Nothing => json!({ "type": "string" }),
        }
    }

    /// Parameters of a query, from a type of which each field is one.
    fn fields(&mut self, shape: Shape) -> Vec<Value> {
        let mut fresh = Schemas::new().taken;
        let schema = shape(&mut fresh).to_value();
        let whole = match schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            Some(name) => fresh.take_definitions(true)[name].clone(),
            None => schema,
        };
        let required: BTreeSet<&str> =
            whole["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let fields = whole["properties"].as_object().into_iter().flatten();
        let parameter = |(name, schema): (&String, &Value)| {
            let mut schema = schema.clone();
            let said = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let required = required.contains(name.as_str());
            // What may be left out is not given as null.
            if let Some(kinds) = schema["type"].as_array() {
                schema["type"] = kinds[0].clone();
            }
            json!({ "name": name, "in": "query", "required": required, "description": said, "schema": schema })
        };
        fields.map(parameter).collect()
    }

    /// A reference to the Response Object, which is written down once for all routes that answer so.
    fn response(&mut self, code: u16, by_media: BTreeMap<&str, Vec<Value>>) -> Value {
        let kinds =
            by_media.iter().flat_map(|(media, shapes)| shapes.iter().map(|shape| kind_of(media, shape)));
        let name = format!("{}{code}", kinds.collect::<Vec<_>>().join("Or"));
        let mut response = json!({ "description": words(code) });
        for (media, mut shapes) in by_media {
            let schema = if shapes.len() == 1 { shapes.remove(0) } else { json!({ "anyOf": shapes }) };
            response["content"][media] = json!({ "schema": schema });
        }
        let known = self.responses.entry(name.clone()).or_insert_with(|| response.clone());
        assert_eq!(*known, response, "two answers are both called {name}");
        json!({ "$ref": format!("#/components/responses/{name}") })
    }

    /// All schemas and responses by name. A type that is both told and taken must be the same.
    pub fn components(mut self) -> Value {
        let mut all = self.told.take_definitions(true);
        for (name, schema) in self.taken.take_definitions(true) {
            let told = all.entry(name.clone()).or_insert_with(|| schema.clone());
            assert_eq!(*told, schema, "{name} is told otherwise than taken; give one of both another name");
        }
        json!({ "schemas": all, "responses": self.responses })
    }
}

/// A word for a body: its type, or its media type.
fn kind_of(media: &str, schema: &Value) -> String {
    let named = |schema: &Value| schema["$ref"].as_str()?.rsplit('/').next().map(str::to_owned);
    let listed = || named(&schema["items"]).map(|name| format!("{name}List"));
    let words = media.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.map(|word| word[..1].to_uppercase() + &word[1..]);
    named(schema).or_else(listed).unwrap_or_else(|| words.collect())
}
