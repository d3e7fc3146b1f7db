//! Several policies in one server, and new ones in their places while robots go on.

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{sleep, spawn},
    time::Duration,
};

use evo1::{ActionChunk, Observation};
use evo1_serve::{
    Answer, Description, Error, Load, Model, NamedModel, Request, RequestError, Server, ServerOptions, Tokens,
    protocol::Shape,
};
use serde_json::Value;
use support::{HORIZON, Raw, Running, Scripted, http, message};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

/// [`Scripted`], whose actions are all of its version, and which notes what is done with it. One of no version is for another
/// robot.
struct Versioned {
    version: f32,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Model for Versioned {
    fn shape(&self) -> Shape {
        Scripted.shape()
    }

    fn description(&self) -> Description {
        let action_dim = self.version.is_nan().then_some(7);
        Description { policy: format!("version {}", self.version), action_dim, ..Scripted.description() }
    }

    fn sample(&self) -> Request {
        Request::of(Observation::default())
    }

    fn check(&self, request: &Request) -> Result<(), RequestError> {
        Scripted.check(request)
    }

    fn warm_up(&self) -> Result<(), RequestError> {
        self.notes.lock().expect("notes").push(format!("warm {}", self.version));
        Ok(())
    }

    fn can_batch(&self, _: &Request, _: &Request) -> bool {
        true
    }

    fn predict(&self, requests: &[&Request]) -> Result<Vec<Answer>, RequestError> {
        self.notes.lock().expect("notes").push(format!("{} requests to {}", requests.len(), self.version));
        let chunk = ActionChunk::new(24, vec![self.version; HORIZON * 24]);
        let answer = |answer| Answer { chunk: chunk.clone(), ..answer };
        Ok(Scripted.predict(requests)?.into_iter().map(answer).collect())
    }
}

fn versioned(name: &str, version: f32, load: Option<Load>, notes: &Arc<Mutex<Vec<String>>>) -> NamedModel {
    NamedModel { name: name.into(), model: Arc::new(Versioned { version, notes: notes.clone() }), load }
}

fn version(raw: &mut Raw) -> f64 {
    let rows: Vec<Vec<f64>> = serde_json::from_str(&raw.text()).expect("a list of lists");
    rows[0][0]
}

fn ask(raw: &mut Raw) -> f64 {
    raw.send(message("go", 0));
    version(raw)
}

fn post(server: &Running, path: &str, headers: &str) -> (u16, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n",
        server.address
    );
    http(server.address, &head)
}

#[test]
fn clients_say_which_policy_they_mean_and_get_the_first_when_they_do_not() {
    let notes = Arc::default();
    let models = vec![versioned("fold", 1.0, None, &notes), versioned("pour", 2.0, None, &notes)];
    let options = ServerOptions { max_batch: 8, batch_wait: Duration::from_millis(100), ..ServerOptions::default() };
    let server = Running::with_all(models, options);
    for (path, expected) in [
        ("/", 1.0),
        ("/policy/fold", 1.0),
        ("/policy/pour", 2.0),
        ("/policy/pour/", 2.0),
        ("/policy/pour/evo1", 2.0),
        ("/?policy=pour", 2.0),
    ] {
        assert_eq!(ask(&mut server.raw(path)), expected, "{path}");
    }
    let mut request = server.url("/").into_client_request().expect("a URL");
    request.headers_mut().insert("X-Evo1-Policy", "pour".parse().expect("a value"));
    let (socket, _) = tungstenite::connect(request).expect("a connection");
    assert_eq!(ask(&mut Raw(socket)), 2.0);
    for path in ["/policy/pour/openpi", "/policy/pour/openpi:9000"] {
        let metadata = server.raw(path).read().into_data();
        assert!(String::from_utf8_lossy(&metadata).contains("version 2"), "{path}");
    }
    for path in ["/policy/none", "/policy/", "/?policy=none"] {
        assert!(tungstenite::connect(server.url(path)).is_err(), "{path}");
    }
    let (status, reason) = server.get("/policy/none/info");
    assert_eq!(status, 404);
    assert!(reason.contains("there is no policy `none`, but there is `fold`, `pour`"), "{reason}");
    let info = |path: &str| serde_json::from_str::<Value>(&server.get(path).1).expect("JSON");
    assert_eq!((&info("/info")["policy"], &info("/info")["name"]), (&"version 1".into(), &"fold".into()));
    assert_eq!(info("/policy/pour/info")["policy"], "version 2");
    assert_eq!(info("/info")["policies"], serde_json::json!(["fold", "pour"]));
    assert_eq!(info("/last")["policy"], "pour", "the last request's");
    // Requests to both wait at once, and are computed apart.
    let (mut one, mut other) = (server.raw("/policy/fold"), server.raw("/policy/pour"));
    notes.lock().expect("notes").clear();
    one.send(message("go", 0));
    other.send(message("go", 0));
    assert_eq!((version(&mut one), version(&mut other)), (1.0, 2.0));
    assert!(notes.lock().expect("notes").iter().all(|note| note.starts_with("1 requests")), "{notes:?}");
    server.wait_for_metric("evo1_policy_requests_total{policy=\"pour\"} 6");
}

#[test]
fn names_that_no_client_could_say_are_refused() {
    let notes = Arc::default();
    let refused = |names: &[&str]| {
        let models = names.iter().map(|name| versioned(name, 1.0, None, &notes)).collect();
        let options = ServerOptions { bind: ([127, 0, 0, 1], 0).into(), ..ServerOptions::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        match runtime.block_on(Server::bind_all(models, options)) {
            Err(Error::Option { option: "policy", message }) => message,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{names:?} are taken"),
        }
    };
    assert!(refused(&["fold", "fold"]).contains("two policies are called `fold`"));
    assert!(refused(&["fold", "a/b"]).contains("got `a/b`"));
    assert!(refused(&["fold", ""]).contains("got ``"));
    refused(&[]);
}

#[test]
fn a_new_policy_takes_its_place_when_it_is_warm_and_connections_stay() {
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let (loads, of_notes) = (AtomicUsize::new(0), notes.clone());
    let load: Load = Arc::new(move || match loads.fetch_add(1, Ordering::Relaxed) {
        0 => {
            // As long as a large one takes.
            sleep(Duration::from_millis(700));
            Ok(Arc::new(Versioned { version: 2.0, notes: of_notes.clone() }))
        }
        1 => Err("config.json: it is not there".into()),
        2 => Ok(Arc::new(Versioned { version: f32::NAN, notes: of_notes.clone() })),
        _ => panic!("as it was told to"),
    });
    let server = Running::with_all(vec![versioned("fold", 1.0, Some(load), &notes)], ServerOptions::default());
    let (mut raw, mut waiting) = (server.raw("/"), server.raw("/"));
    assert_eq!(ask(&mut raw), 1.0);
    assert_eq!(server.get("/reload").0, 405, "not by a link");
    let address = server.address;
    let reload = spawn(move || {
        let head =
            format!("POST /reload HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        http(address, &head)
    });
    sleep(Duration::from_millis(200));
    assert_eq!(ask(&mut raw), 1.0, "the old one answers while the new one is loaded");
    assert_eq!(post(&server, "/reload", "").0, 409, "one at a time");
    // Under way when the new one comes.
    waiting.send(message("sleep 900", 0));
    let (status, message) = reload.join().expect("no panic");
    assert_eq!((status, message.trim()), (200, "loaded anew: fold"));
    assert_eq!(version(&mut waiting), 1.0, "it was asked of the old one");
    assert_eq!(ask(&mut raw), 2.0, "the same connection");
    assert_eq!(ask(&mut waiting), 2.0);
    let noted = notes.lock().expect("notes").clone();
    let place =
        |note: &str| noted.iter().position(|noted| noted == note).unwrap_or_else(|| panic!("{note}: {noted:?}"));
    assert!(place("warm 2") < place("1 requests to 2"), "{noted:?}");
    for expected in
        ["config.json: it is not there", "its `action_dim` (/info) is not that of the old one", "loading it failed"]
    {
        let (status, message) = post(&server, "/reload", "");
        assert!(status == 500 && message.contains("`fold` stays as it is") && message.contains(expected), "{message}");
        assert_eq!(ask(&mut raw), 2.0);
    }
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("evo1_reloads_total{result=\"done\"} 1") && metrics.contains("{result=\"failed\"} 3"));
    assert_eq!(server.get("/readyz").0, 200);
}

#[test]
fn not_everybody_may_reload() {
    let notes = Arc::default();
    let load: Load = Arc::new(|| Err("it was tried".into()));
    let mut tokens = Tokens::default();
    tokens.add("robot", "secret").expect("a token");
    let options = ServerOptions { tokens, ..ServerOptions::default() };
    let models = vec![versioned("fold", 1.0, Some(load), &notes), versioned("pour", 2.0, None, &notes)];
    let server = Running::with_all(models, options);
    assert_eq!(post(&server, "/reload", "").0, 401);
    assert_eq!(server.get("/policy/none/info").0, 401, "names are not told to strangers");
    let token = "Authorization: Bearer secret\r\n";
    assert_eq!(post(&server, "/reload", &format!("{token}Origin: http://evil.example\r\n")).0, 403);
    let (status, message) = post(&server, "/reload", token);
    assert!(status == 500 && message.contains("it was tried"), "{message}");
    let (status, message) = post(&server, "/policy/pour/reload", token);
    assert!(status == 500 && message.contains("`pour` stays as it is: it cannot be loaded anew"), "{message}");
}
