//! What the server answers over HTTP, and how a request becomes a websocket.

use std::sync::Arc;

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, UPGRADE,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use crate::{
    connection::{self, ConnectionOptions, Dialect},
    server::{Phase, Shared},
    worker::Health,
};

/// The page for people, with its style and script: it works offline.
const PAGE: &str = include_str!("page/index.html");

/// What the page may do: run its own script and talk to this server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    connect-src 'self' ws: wss:; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path of openpi's protocol; any other path that asks for a websocket gets Evo-1's.
const OPENPI_PATH: &str = "/openpi";

type Reply = Response<Full<Bytes>>;

/// Answers a request. `permit` is held by the websocket that it may become.
pub(crate) fn respond(request: Request<Incoming>, shared: Arc<Shared>, permit: Arc<OwnedSemaphorePermit>) -> Reply {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if request.headers().contains_key(UPGRADE) {
        return websocket(request, &path, &query, shared, permit);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
    }
    match path.as_str() {
        "/" => page(),
        "/healthz" => text(StatusCode::OK, "OK"),
        "/readyz" => ready(&shared),
        _ if !is_authorized(request.headers(), &query, &shared) => unauthorized(),
        "/metrics" => {
            let metrics = shared.metrics.text(shared.queue.len(), shared.budget.used());
            typed("text/plain; version=0.0.4; charset=utf-8", metrics)
        }
        "/info" => info(&shared),
        "/last" => last(&shared),
        OPENPI_PATH => text(StatusCode::UPGRADE_REQUIRED, "connect with a websocket here"),
        path => match path.strip_prefix("/last/view/").and_then(|view| view.parse().ok()) {
            Some(view) => last_view(&shared, view),
            None => text(StatusCode::NOT_FOUND, "there is nothing here"),
        },
    }
}

/// The part of a URL behind the `?`.
#[derive(Debug, Default)]
struct Query {
    token: Option<String>,
    queue: Option<String>,
    errors: Option<String>,
    reply: Option<String>,
    client: Option<String>,
}

impl Query {
    fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let place = match &*name {
                "token" => &mut query.token,
                "queue" => &mut query.queue,
                "errors" => &mut query.errors,
                "reply" => &mut query.reply,
                "client" => &mut query.client,
                _ => continue,
            };
            *place = Some(value.into_owned());
        }
        query
    }

    fn terms(&self, path: &str) -> Result<ConnectionOptions, String> {
        let is = |name: &str, value: &Option<String>, known: &str| match value.as_deref() {
            None => Ok(false),
            Some(value) if value == known => Ok(true),
            Some(other) => Err(format!("`{name}` must be `{known}`, got `{other}`")),
        };
        let json_errors = is("errors", &self.errors, "json")?;
        let object_replies = is("reply", &self.reply, "object")?;
        let dialect = if path == OPENPI_PATH { Dialect::OpenPi } else { Dialect::Json { json_errors, object_replies } };
        Ok(ConnectionOptions {
            dialect,
            latest: is("queue", &self.queue, "latest")?,
            is_page: self.client.as_deref() == Some("page"),
        })
    }
}

fn websocket(
    mut request: Request<Incoming>,
    path: &str,
    query: &Query,
    shared: Arc<Shared>,
    permit: Arc<OwnedSemaphorePermit>,
) -> Reply {
    if !is_authorized(request.headers(), query, &shared) {
        return unauthorized();
    }
    if !is_own_origin(request.headers()) {
        return text(StatusCode::FORBIDDEN, "pages of other sites may not use this server");
    }
    if *shared.phase.borrow() == Phase::Draining {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
    }
    let terms = match query.terms(path) {
        Ok(terms) => terms,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let head = request.map(drop);
    let response = match create_response_with_body(&head, Full::default) {
        Ok(response) => response,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("not a websocket handshake: {error}")),
    };
    tokio::spawn(async move {
        // A peer that leaves during its handshake needs no answer.
        if let Ok(stream) = upgrade.await {
            connection::serve(TokioIo::new(stream), shared, terms).await;
        }
        drop(permit);
    });
    response
}

/// Whether the request brings the token, if there is one.
fn is_authorized(headers: &HeaderMap, query: &Query, shared: &Shared) -> bool {
    let Some(token) = &shared.options.token else { return true };
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = header.and_then(|value| value.strip_prefix("Bearer ").or(value.strip_prefix("Api-Key ")));
    given.or(query.token.as_deref()).is_some_and(|given| equal_in_constant_time(given.as_bytes(), token.as_bytes()))
}

/// Compares without telling by its time where a difference is.
fn equal_in_constant_time(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Whether a browser's page comes from this server; robots' clients send no origin. Without this check any page that
/// somebody looks at could move the robot of a server on the same machine.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == host
}

fn ready(shared: &Shared) -> Reply {
    match (*shared.phase.borrow(), *shared.health.borrow()) {
        (Phase::Draining, _) => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        (_, Health::WarmingUp) => text(StatusCode::SERVICE_UNAVAILABLE, "warming up"),
        (_, Health::Stopped) => text(StatusCode::SERVICE_UNAVAILABLE, "the model has stopped"),
        (_, Health::Ready) => text(StatusCode::OK, "ready"),
    }
}

/// What is served, and how messages are read.
fn info(shared: &Shared) -> Reply {
    let mut info = json!(shared.description);
    info["swaps_channels"] = shared.options.swaps_channels.into();
    info["version"] = env!("CARGO_PKG_VERSION").into();
    typed("application/json", info.to_string())
}

/// The last request of a robot and its answer, frames aside.
fn last(shared: &Shared) -> Reply {
    let Some(last) = shared.last() else { return typed("application/json", "null") };
    let observation = &last.request.observation;
    let views = observation.views.iter().map(|view| {
        view.frame().map(|frame| json!({"width": frame.width(), "height": frame.height(), "shown": view.is_present()}))
    });
    let mut milliseconds: serde_json::Map<String, serde_json::Value> = last
        .answer
        .times
        .stages()
        .into_iter()
        .map(|(name, time)| (name.into(), (time.as_secs_f64() * 1e3).into()))
        .collect();
    milliseconds.insert("queue".into(), (last.answer.queued.as_secs_f64() * 1e3).into());
    let document = json!({
        "seconds_ago": last.received.elapsed().as_secs_f64(),
        "prompt": observation.instruction,
        "state": observation.state,
        "views": views.collect::<Vec<_>>(),
        "actions": last.answer.chunk.steps().collect::<Vec<_>>(),
        "milliseconds": milliseconds,
    });
    typed("application/json", document.to_string())
}

/// A frame of the last request: RGB bytes, with its size in the headers.
fn last_view(shared: &Shared, view: usize) -> Reply {
    let last = shared.last();
    let Some(frame) = last.as_ref().and_then(|last| last.request.observation.views.get(view)?.frame()) else {
        return text(StatusCode::NOT_FOUND, "there is no such view");
    };
    let mut reply = typed("application/octet-stream", frame.rgb().to_vec());
    reply.headers_mut().insert("x-width", frame.width().into());
    reply.headers_mut().insert("x-height", frame.height().into());
    reply
}

fn page() -> Reply {
    let mut reply = typed("text/html; charset=utf-8", PAGE);
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    reply
}

fn unauthorized() -> Reply {
    text(StatusCode::UNAUTHORIZED, "a token is needed: `Authorization: Bearer TOKEN`, or `?token=TOKEN`")
}

fn text(status: StatusCode, message: impl Into<String>) -> Reply {
    let mut reply = typed("text/plain; charset=utf-8", message.into() + "\n");
    *reply.status_mut() = status;
    reply
}

fn typed(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_from_the_query() {
        let terms = |path: &str, query: &str| Query::parse(query).terms(path);
        let json = terms("/", "queue=latest&errors=json&x=1").expect("known values");
        assert_eq!(json.dialect, Dialect::Json { json_errors: true, object_replies: false });
        assert!(json.latest && !json.is_page);
        assert_eq!(terms(OPENPI_PATH, "").expect("none").dialect, Dialect::OpenPi);
        assert_eq!(terms("/", "queue=newest").expect_err("unknown"), "`queue` must be `latest`, got `newest`");
    }

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        let headers = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("127.0.0.1:9000"));
            origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
            headers
        };
        assert!(is_own_origin(&headers(None)));
        assert!(is_own_origin(&headers(Some("http://127.0.0.1:9000"))));
        assert!(!is_own_origin(&headers(Some("http://evil.example"))));
        assert!(!is_own_origin(&headers(Some("null"))));
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(equal_in_constant_time(b"abc", b"abc"));
        assert!(!equal_in_constant_time(b"abc", b"abd"));
        assert!(!equal_in_constant_time(b"abc", b"ab"));
    }
}
