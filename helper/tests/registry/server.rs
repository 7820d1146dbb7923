//! A small HTTP/1.1 server on threads that answers as a test wishes, wrongly if need be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn is_blob(&self, digest: &str) -> bool {
        self.path.ends_with(digest)
    }
}

/// An answer, and how to get it wrong.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As it should be.
    Right,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// Not one byte more after so many, but the connection stays.
    Stall(usize),
    /// A byte of the body now and then.
    Drip,
    /// Chunked, and the body again and again without end.
    Endless,
    /// Chunked: no length is announced.
    Chunked,
    /// Not even a status line.
    Silent,
    /// Closed before the status line.
    Closed,
}

impl Answer {
    pub fn ok(body: Vec<u8>) -> Self {
        Self { status: 200, headers: vec![], body, how: How::Right }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok(vec![]) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running server; it ends with the value.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(loopback("127.0.0.1:0").expect("a free port"), None, handler)
    }

    /// The same on IPv6; None where this machine has none.
    pub fn start_v6(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Option<Self> {
        Some(Self::listen(loopback("[::1]:0")?, None, handler))
    }

    /// The same over TLS.
    pub fn start_tls(
        config: Arc<rustls::ServerConfig>,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::listen(loopback("127.0.0.1:0").expect("a free port"), Some(config), handler)
    }

    fn listen(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let handler: Arc<Handler> = Arc::new(handler);
        let (ends, notes) = (stop.clone(), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                // No test waits longer for a request than this.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                let (handler, notes, ends, tls) = (handler.clone(), notes.clone(), ends.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &*handler, &notes, &ends),
                    Some(config) => {
                        let tls = rustls::ServerConnection::new(config).expect("a good configuration");
                        serve(rustls::StreamOwned::new(tls, stream), &*handler, &notes, &ends);
                    }
                });
            }
        });
        Self { address, stop, log }
    }

    /// `127.0.0.1:PORT` or `[::1]:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The image that tests keep there.
    pub fn image(&self) -> String {
        format!("{}/team/app:1", self.host())
    }

    pub fn log(&self) -> Vec<Request> {
        self.log.lock().expect("unpoisoned").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn loopback(address: &str) -> Option<TcpListener> {
    TcpListener::bind(address).ok()
}

fn serve(stream: impl Read + Write, handler: &Handler, log: &Mutex<Vec<Request>>, stop: &AtomicBool) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream) {
        log.lock().expect("unpoisoned").push(request.clone());
        let answer = handler(&request);
        if write_answer(stream.get_mut(), &request, &answer, stop).is_none() {
            break;
        }
    }
}

fn read_request(input: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target, "HTTP/1.1") = (words.next()?, words.next()?, words.next()?) else { return None };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.into(),
        path: path.into(),
        query: query.into(),
        headers: vec![],
        body: String::new(),
    };
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.into(), value.trim().into()));
    }
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).ok()?;
    Some(request)
}

/// None where the connection is to be closed.
fn write_answer(out: &mut impl Write, request: &Request, answer: &Answer, stop: &AtomicBool) -> Option<()> {
    match answer.how {
        How::Closed => return None,
        How::Silent => return hold(stop),
        _ => {}
    }
    let chunked = matches!(answer.how, How::Chunked | How::Endless);
    let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !answer.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    out.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    match answer.how {
        How::Cut(n) => {
            out.write_all(&answer.body[..n.min(answer.body.len())]).ok()?;
            None
        }
        How::Stall(n) => {
            out.write_all(&answer.body[..n.min(answer.body.len())]).ok()?;
            hold(stop)
        }
        How::Drip => {
            for byte in answer.body.chunks(1).take_while(|_| !stop.load(Ordering::SeqCst)) {
                out.write_all(byte).ok()?;
                std::thread::sleep(Duration::from_millis(200));
            }
            None
        }
        How::Chunked => {
            chunk(out, &answer.body)?;
            out.write_all(b"0\r\n\r\n").ok()
        }
        How::Endless => loop {
            if stop.load(Ordering::SeqCst) {
                return None;
            }
            chunk(out, &answer.body)?;
        },
        _ => out.write_all(&answer.body).ok(),
    }
}

fn chunk(out: &mut impl Write, bytes: &[u8]) -> Option<()> {
    out.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).ok()?;
    out.write_all(bytes).ok()?;
    out.write_all(b"\r\n").ok()
}

/// Keeps the connection open until the test is over.
fn hold(stop: &AtomicBool) -> Option<()> {
    for _ in 0..400 {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}
