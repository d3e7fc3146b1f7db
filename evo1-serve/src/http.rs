//! What the server answers over HTTP, and how a request becomes a websocket.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, UPGRADE,
        X_CONTENT_TYPE_OPTIONS,
    },
    http::uri::Authority,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use crate::{
    ServerOptions,
    connection::{self, Client, ConnectionOptions, Dialect},
    protocol::Protocol,
    server::{Phase, ReloadError, Shared},
    watchdog::Stall,
    worker::Health,
};

/// The page for people, with its style and script: it works offline.
const PAGE: &str = include_str!("page/index.html");

/// What the page may do: run its own script and talk to this server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    connect-src 'self' ws: wss:; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path of openpi's protocol, whatever other paths speak.
pub(crate) const OPENPI_PATH: &str = "/openpi";

/// Path of Evo-1's protocol, whatever other paths speak.
pub(crate) const EVO1_PATH: &str = "/evo1";

/// What the path of a policy begins with; its name follows, then a path as above.
const POLICY_PATH: &str = "/policy/";

/// The header that names a policy.
const POLICY_HEADER: &str = "x-evo1-policy";

/// The header of a handshake after which the first message is what `/info` says.
pub(crate) const INFO_HEADER: &str = "x-evo1-info";

type Reply = Response<Full<Bytes>>;

/// Answers a request of `peer`. `permit` is held by the websocket that it may become.
pub(crate) async fn respond(
    request: Request<Incoming>,
    peer: Option<SocketAddr>,
    shared: Arc<Shared>,
    permit: Arc<OwnedSemaphorePermit>,
) -> Reply {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let reply = answer(request, peer, shared.clone(), permit).await;
    shared.access.page(peer, method.as_str(), &path, reply.status().as_u16());
    reply
}

async fn answer(
    request: Request<Incoming>,
    peer: Option<SocketAddr>,
    shared: Arc<Shared>,
    permit: Arc<OwnedSemaphorePermit>,
) -> Reply {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if let Some(stranger) = foreign_host(request.headers(), &shared.options) {
        return forbidden(unknown_host(&stranger));
    }
    let Selected { policy, path } = match select(&path, &query, request.headers(), &shared) {
        Ok(selected) => selected,
        // Who may not ask is not told what there is.
        Err(_) if authorized(request.headers(), &query, &shared).is_err() => return unauthorized(),
        Err(message) => return text(StatusCode::NOT_FOUND, message),
    };
    if request.headers().contains_key(UPGRADE) {
        return websocket(request, path, &query, shared, permit, policy.unwrap_or(0), peer);
    }
    if path == "/reload" {
        return reload(&request, &query, &shared, policy).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
    }
    match path {
        "/" => page(),
        "/healthz" => text(StatusCode::OK, "OK"),
        "/readyz" => ready(&shared),
        _ if authorized(request.headers(), &query, &shared).is_err() => unauthorized(),
        "/metrics" => {
            let metrics = shared.metrics.text(shared.queue.len(), shared.budget.used());
            typed("text/plain; version=0.0.4; charset=utf-8", metrics)
        }
        "/info" => info(&shared, policy.unwrap_or(0)),
        "/last" => last(&shared),
        "/recent" => recent(&shared, &query),
        OPENPI_PATH | EVO1_PATH => text(StatusCode::UPGRADE_REQUIRED, "connect with a websocket here"),
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
    policy: Option<String>,
    info: Option<String>,
    after: Option<String>,
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
                "policy" => &mut query.policy,
                "info" => &mut query.info,
                "after" => &mut query.after,
                _ => continue,
            };
            *place = Some(value.into_owned());
        }
        query
    }

    /// How a websocket at `path` is to be treated, where other paths than those of one protocol speak `protocol`.
    fn terms(&self, path: &str, policy: usize, protocol: Protocol) -> Result<ConnectionOptions, String> {
        let is = |name: &str, value: &Option<String>, known: &str| match value.as_deref() {
            None => Ok(false),
            Some(value) if value == known => Ok(true),
            Some(other) => Err(format!("`{name}` must be `{known}`, got `{other}`")),
        };
        let json_errors = is("errors", &self.errors, "json")?;
        let object_replies = is("reply", &self.reply, "object")?;
        // openpi's client, given a URL and a port, appends the port to the path.
        let is_port = |rest: &str| rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        let protocol = match path.strip_prefix(OPENPI_PATH) {
            Some(rest) if rest.is_empty() || is_port(rest) => Protocol::OpenPi,
            _ if path == EVO1_PATH => Protocol::Evo1,
            _ => protocol,
        };
        let dialect = match protocol {
            Protocol::OpenPi => Dialect::OpenPi,
            Protocol::Evo1 => Dialect::Json { json_errors, object_replies },
        };
        Ok(ConnectionOptions {
            dialect,
            policy,
            sends_info: is("info", &self.info, "json")? && protocol == Protocol::Evo1,
            latest: is("queue", &self.queue, "latest")?,
            is_page: self.client.as_deref() == Some("page"),
        })
    }
}

/// What a client asks for.
struct Selected<'a> {
    /// The place of the policy that it names, if it names one.
    policy: Option<usize>,
    /// The path behind the policy's.
    path: &'a str,
}

/// The policy that a client names: by the path, a header, or the query of those who can do neither.
fn select<'a>(path: &'a str, query: &Query, headers: &HeaderMap, shared: &Shared) -> Result<Selected<'a>, String> {
    let header = headers.get(POLICY_HEADER).map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    let (name, path) = match path.strip_prefix(POLICY_PATH) {
        Some(rest) => {
            // openpi's client, given a URL and a port, appends the port to the path.
            let end = rest.find(['/', ':']).unwrap_or(rest.len());
            let rest = rest.split_at(end);
            (Some(rest.0.to_owned()), if rest.1.starts_with('/') { rest.1 } else { "/" })
        }
        None => (header.or_else(|| query.policy.clone()), path),
    };
    let Some(name) = name else { return Ok(Selected { policy: None, path }) };
    let Some(policy) = shared.policies.find(&name) else {
        let names: Vec<&str> = shared.policies.names().collect();
        return Err(format!("there is no policy `{name}`, but there is `{}`", names.join("`, `")));
    };
    Ok(Selected { policy: Some(policy), path })
}

/// Loads policies anew: the one that is named, or all.
async fn reload(request: &Request<Incoming>, query: &Query, shared: &Shared, policy: Option<usize>) -> Reply {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "POST loads the policies anew");
    }
    if authorized(request.headers(), query, shared).is_err() {
        return unauthorized();
    }
    if let Some(origin) = foreign_origin(request.headers(), &shared.options.allow_origins) {
        return forbidden(foreign_page(&origin));
    }
    match shared.reload(policy).await {
        Ok(names) => text(StatusCode::OK, format!("loaded anew: {}", names.join(", "))),
        Err(error @ ReloadError::UnderWay) => text(StatusCode::CONFLICT, error.to_string()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn websocket(
    mut request: Request<Incoming>,
    path: &str,
    query: &Query,
    shared: Arc<Shared>,
    permit: Arc<OwnedSemaphorePermit>,
    policy: usize,
    peer: Option<SocketAddr>,
) -> Reply {
    let Ok(holder) = authorized(request.headers(), query, &shared) else { return unauthorized() };
    if let Some(origin) = foreign_origin(request.headers(), &shared.options.allow_origins) {
        return forbidden(foreign_page(&origin));
    }
    if *shared.phase.borrow() == Phase::Draining {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
    }
    let terms = match query.terms(path, policy, shared.options.protocol) {
        Ok(terms) => terms,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let head = request.map(drop);
    let response = match create_response_with_body(&head, Full::default) {
        Ok(mut response) => {
            if terms.sends_info {
                response.headers_mut().insert(INFO_HEADER, HeaderValue::from_static("json"));
            }
            response
        }
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("not a websocket handshake: {error}")),
    };
    tokio::spawn(async move {
        // A peer that leaves during its handshake needs no answer.
        if let Ok(stream) = upgrade.await {
            connection::serve(TokioIo::new(stream), shared, terms, Client { peer, holder }).await;
        }
        drop(permit);
    });
    response
}

/// No token brought, or a wrong one.
struct Unauthorized;

/// Who holds the token that the request brings; nobody where none is needed.
fn authorized(headers: &HeaderMap, query: &Query, shared: &Shared) -> Result<Option<String>, Unauthorized> {
    let tokens = &shared.options.tokens;
    if tokens.is_empty() {
        return Ok(None);
    }
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = header.and_then(|value| value.strip_prefix("Bearer ").or(value.strip_prefix("Api-Key ")));
    let holder = tokens.holder(given.or(query.token.as_deref()).unwrap_or_default());
    holder.map(|name| Some(name.to_owned())).ok_or(Unauthorized)
}

/// The name by which a request asks for the server, if it may not. A page can give its own name this server's address (DNS
/// rebinding) and would be of one site with it then; it has no token, and cannot name an address.
fn foreign_host(headers: &HeaderMap, options: &ServerOptions) -> Option<String> {
    let given = headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).unwrap_or_default();
    (options.tokens.is_empty() && !is_known_host(&given, options)).then_some(given)
}

/// Whether a client without a token may ask for the server by this name.
pub(crate) fn is_known_host(given: &str, options: &ServerOptions) -> bool {
    given.parse::<Authority>().is_ok_and(|authority| {
        let name = authority.host();
        let is_allowed = |allowed: &String| allowed.eq_ignore_ascii_case(name);
        name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || options.allow_hosts.iter().any(is_allowed)
    })
}

/// What who asks for the server by a name that it does not know is told.
pub(crate) fn unknown_host(name: &str) -> String {
    format!(
        "`{name}` is not known to be a name of this server: without a token it answers to addresses, `localhost` and the \
         names of --allow-host"
    )
}

/// The origin of a browser's page that neither comes from this server nor is allowed; robots' clients send no origin.
/// Without this check any page that somebody looks at could move the robot of a server on the same machine.
fn foreign_origin(headers: &HeaderMap, allowed: &[String]) -> Option<String> {
    let origin = headers.get(ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned())?;
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let own = origin.split_once("://").map(|(_, host)| host);
    let is_own = own.is_some() && own == host;
    (!is_own && !allowed.contains(&origin)).then_some(origin)
}

fn foreign_page(origin: &str) -> String {
    format!("pages of other sites may not use this server, unless --allow-origin names them: `{origin}`")
}

fn ready(shared: &Shared) -> Reply {
    match (*shared.phase.borrow(), *shared.health.borrow()) {
        (Phase::Draining, _) => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        (_, Health::WarmingUp) => text(StatusCode::SERVICE_UNAVAILABLE, "warming up"),
        (_, Health::Stopped) => text(StatusCode::SERVICE_UNAVAILABLE, "the model has stopped"),
        (_, Health::Ready) => match shared.metrics.watchdog.stall() {
            None => text(StatusCode::OK, "ready"),
            Some(Stall { running, usual }) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("a prediction has been running for {running:.1?}, where {usual:.1?} are usual"),
            ),
        },
    }
}

/// What is served, and how messages are read.
fn info(shared: &Shared, policy: usize) -> Reply {
    typed("application/json", info_document(shared, policy))
}

pub(crate) fn info_document(shared: &Shared, policy: usize) -> String {
    let mut info = json!(shared.policies.served(policy).description);
    info["name"] = shared.policies.name(policy).into();
    info["policies"] = shared.policies.names().collect();
    info["swaps_channels"] = shared.options.swaps_channels.into();
    info["version"] = env!("CARGO_PKG_VERSION").into();
    info.to_string()
}

/// The last request of a robot and its answer, frames aside.
fn last(shared: &Shared) -> Reply {
    let Some(last) = shared.recent.last() else { return typed("application/json", "null") };
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
        "policy": last.policy,
        "seconds_ago": last.received.elapsed().as_secs_f64(),
        "prompt": observation.instruction,
        "state": observation.state,
        "views": views.collect::<Vec<_>>(),
        "actions": last.answer.chunk.steps().collect::<Vec<_>>(),
        "milliseconds": milliseconds,
    });
    typed("application/json", document.to_string())
}

/// What the page shows as it comes: chunks after the one that it has seen, percentiles, and failures by kind.
fn recent(shared: &Shared, query: &Query) -> Reply {
    let after = query.after.as_deref().and_then(|number| number.parse().ok()).unwrap_or(0);
    let failures = shared.metrics.failures().filter(|(_, count)| *count > 0);
    let document = json!({
        "chunks": shared.recent.chunks(after),
        "latency": shared.recent.latency(),
        "errors": failures.map(|(kind, count)| (kind.to_owned(), count.into())).collect::<serde_json::Map<_, _>>(),
        "connections": shared.metrics.connections(),
        "waiting": shared.queue.len(),
    });
    typed("application/json", document.to_string())
}

/// A frame of the last request: RGB bytes, with its size in the headers.
fn last_view(shared: &Shared, view: usize) -> Reply {
    let last = shared.recent.last();
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

/// Refuses who comes by a wrong name or from a wrong page. Many clients show no more of it than its number.
fn forbidden(message: String) -> Reply {
    tracing::warn!("refused: {message}");
    text(StatusCode::FORBIDDEN, message)
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
        let terms = |path: &str, query: &str| Query::parse(query).terms(path, 0, Protocol::Evo1);
        let json = terms("/", "queue=latest&errors=json&x=1").expect("known values");
        assert_eq!(json.dialect, Dialect::Json { json_errors: true, object_replies: false });
        assert!(json.latest && !json.is_page);
        assert_eq!(terms(OPENPI_PATH, "").expect("none").dialect, Dialect::OpenPi);
        assert_eq!(terms("/", "queue=newest").expect_err("unknown"), "`queue` must be `latest`, got `newest`");
    }

    #[test]
    fn paths_of_one_protocol_speak_it_and_others_what_the_server_is_told() {
        for (path, expected) in [
            ("/", None),
            ("/any/path", None),
            ("/openpis", None),
            ("/openpi:x", None),
            ("/openpi", Some(Protocol::OpenPi)),
            ("/openpi:9000", Some(Protocol::OpenPi)),
            ("/evo1", Some(Protocol::Evo1)),
        ] {
            for told in [Protocol::Evo1, Protocol::OpenPi] {
                let dialect = Query::default().terms(path, 0, told).expect("terms").dialect;
                assert_eq!(dialect == Dialect::OpenPi, expected.unwrap_or(told) == Protocol::OpenPi, "{path} {told:?}");
            }
        }
    }

    fn headers(host: &'static str, origin: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(host));
        origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
        headers
    }

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        let foreign = |origin, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|&origin| origin.to_owned()).collect();
            foreign_origin(&headers("127.0.0.1:9000", origin), &allowed)
        };
        assert_eq!(foreign(None, &[]), None);
        assert_eq!(foreign(Some("http://127.0.0.1:9000"), &[]), None);
        for other in ["http://evil.example", "null", "file://", "https://robot.example"] {
            assert_eq!(foreign(Some(other), &["http://127.0.0.1"]), Some(other.to_owned()));
            assert_eq!(foreign(Some(other), &["https://a.example", other]), None);
        }
    }

    #[test]
    fn a_page_cannot_give_the_server_a_name() {
        let mut options = ServerOptions { allow_hosts: vec!["robot.local".into()], ..ServerOptions::default() };
        let foreign = |host, options: &ServerOptions| foreign_host(&headers(host, None), options).is_some();
        for own in ["127.0.0.1:9000", "10.0.0.3", "[::1]:9000", "localhost:1", "LocalHost", "Robot.local:9000"] {
            assert!(!foreign(own, &options), "{own}");
        }
        for other in
            ["evil.example:9000", "localhost.evil.example", "x127.0.0.1", "robot.local.evil", "", "a b", ":9000"]
        {
            assert!(foreign(other, &options), "{other}");
        }
        assert!(foreign_host(&HeaderMap::new(), &options).is_some(), "no name at all");
        options.tokens.add("robot", "secret").expect("a token");
        assert!(!foreign("evil.example", &options), "who has the token is no stranger");
    }
}
