//! The description of the API (OpenAPI 3.1), made from the table of routes.

use serde_json::{Map, Value, json};

use super::routes::{Needs, ROUTES, Route, failure};

/// The description.
#[must_use]
pub fn description() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(route.method.to_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "forebay",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The broker as its operators see it. Nothing is changed by GET.",
        },
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Failure": failure() },
        },
        "security": [{ "token": [] }],
        "paths": paths,
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    if let Some((_, rest)) = route.path.split_once('{') {
        let name = rest.split('}').next().unwrap_or_default();
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "schema": { "type": "string" },
            "description": "Percent-encoded; a / in it as %2F.",
        }));
    }
    for parameter in route.parameters {
        let kind = if parameter.number { "integer" } else { "string" };
        parameters.push(json!({
            "name": parameter.name, "in": "query", "description": parameter.help, "schema": { "type": kind },
        }));
    }
    let failed = |why: &str| {
        json!({
            "description": why,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Failure" } } },
        })
    };
    let mut operation = json!({
        "summary": route.help,
        "operationId": name(route),
        "parameters": parameters,
        "responses": {
            "200": { "description": "Done.", "content": { "application/json": { "schema": (route.schema)() } } },
            "400": failed("The request is wrong."),
            "401": failed("There is no token, or a wrong one."),
            "403": failed("Not without a token in the configuration."),
            "404": failed("There is no such thing."),
            "409": failed("The broker is in no state for it."),
            "500": failed("The machine is in the way."),
        },
    });
    if let Value::Object(operation) = &mut operation {
        if let Some(body) = route.body {
            let content = json!({ "application/octet-stream": {} });
            operation.insert("requestBody".to_owned(), json!({ "description": body, "content": content }));
        }
        if route.needs == Needs::Nothing {
            operation.insert("security".to_owned(), json!([]));
        }
    }
    operation
}

fn name(route: &Route) -> String {
    let words: Vec<&str> =
        route.path.split(['/', '{', '}']).filter(|word| !word.is_empty() && *word != "api").collect();
    format!("{}_{}", route.method.to_lowercase(), words.join("_"))
}
