use super::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

struct Running {
    http: SocketAddr,
    echo: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(service: &str, proxy: Option<String>, calls: Vec<Call>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let name = |text: &str| text.parse().expect("valid");
        let args = Args {
            service: name(service),
            version: name("v1"),
            cluster: "us-east".parse().expect("valid"),
            listen: any,
            tcp_echo: Some(any),
            proxy,
            calls,
        };
        let app = SampleApp::bind(args).await.expect("port 0 is free");
        let (http, echo) = (app.local_addr().expect("bound"), app.echo_addr().expect("bound"));
        let stop = CancellationToken::new();
        Self { http, echo, task: tokio::spawn(app.serve(stop.clone())), stop }
    }

    fn call(&self, name: &str) -> Call {
        format!("{name}=http://{}/", self.http).parse().expect("valid")
    }

    async fn get(&self, path: &str, header: (&str, &str)) -> (http::response::Parts, String) {
        let stream = TcpStream::connect(self.http).await.expect("it listens");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let request = http::Request::get(path).header("host", "shop").header(header.0, header.1);
        let request = request.body(Empty::<Bytes>::new()).expect("valid");
        let (parts, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (parts, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn json(&self, path: &str, header: (&str, &str)) -> Value {
        serde_json::from_str(&self.get(path, header).await.1).expect("JSON")
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it stops by itself");
    }
}

const PLAIN: (&str, &str) = ("accept", "*/*");

#[tokio::test]
async fn an_answer_tells_the_whole_way() {
    let ratings = Running::start("ratings", None, Vec::new()).await;
    let reviews = Running::start("reviews", None, vec![ratings.call("ratings")]).await;
    let caller = "spiffe://us-west.acme.mesh/ns/shop/sa/productpage";
    let story = reviews.json("/some/path", ("x-forwarded-client-cert", &format!("URI={caller}"))).await;
    assert_eq!(
        story,
        json!({
            "cluster": "us-east", "service": "reviews", "version": "v1", "pid": std::process::id(),
            "caller": caller, "path": "/some/path",
            "calls": { "ratings": {
                "cluster": "us-east", "service": "ratings", "version": "v1", "pid": std::process::id(),
                "caller": null, "path": "/", "calls": {},
            }},
        })
    );
    reviews.stop().await;
    ratings.stop().await;
}

#[tokio::test]
async fn calls_go_through_the_proxy_in_absolute_form() {
    let proxy = TcpListener::bind(("127.0.0.1", 0)).await.expect("port 0 is free");
    let address = proxy.local_addr().expect("bound").to_string();
    let call = "ratings=http://ratings.shop.svc.clusterset.local:9080/".parse().expect("valid");
    let reviews = Running::start("reviews", Some(address), vec![call]).await;
    let asked = tokio::spawn(async move {
        let (stream, _) = proxy.accept().await.expect("a call");
        let mut lines = BufReader::new(stream).lines();
        let mut head = Vec::new();
        while let Some(line) = lines.next_line().await.expect("text").filter(|line| !line.is_empty()) {
            head.push(line);
        }
        let mut stream = lines.into_inner().into_inner();
        stream.write_all(b"HTTP/1.1 503 Unavailable\r\ncontent-length: 7\r\n\r\nnobody\n").await.expect("read");
        head
    });
    let story = reviews.json("/", PLAIN).await;
    let head = asked.await.expect("asked");
    assert_eq!(head[0], "GET http://ratings.shop.svc.clusterset.local:9080/ HTTP/1.1");
    assert!(head.contains(&"host: ratings.shop.svc.clusterset.local:9080".to_owned()), "{head:?}");
    assert_eq!(story["calls"]["ratings"], json!({ "error": "status 503: nobody" }));
    reviews.stop().await;
}

#[tokio::test]
async fn services_that_call_each_other_in_a_circle_stop() {
    let reviews = Running::start("reviews", None, vec!["me=http://127.0.0.1:1/".parse().expect("valid")]).await;
    let story = reviews.json("/", (call::DEPTH_HEADER, "8")).await;
    let error = story["calls"]["me"]["error"].as_str().expect("an error");
    assert!(error.contains("in a circle"), "{error}");
    reviews.stop().await;
}

#[tokio::test]
async fn browsers_get_a_page_and_probes_a_word() {
    let page = Running::start("productpage", None, Vec::new()).await;
    let (parts, body) = page.get("/productpage", ("accept", "text/html")).await;
    assert_eq!(parts.headers["content-type"], "text/html; charset=utf-8");
    assert!(body.contains("<b>productpage</b> v1 in <b>us-east</b>"), "{body}");
    assert_eq!(page.get("/healthz", PLAIN).await.1, "ok\n");
    page.stop().await;
}

#[tokio::test]
async fn the_line_server_speaks_first() {
    let app = Running::start("ratings", None, Vec::new()).await;
    let mut lines = BufReader::new(TcpStream::connect(app.echo).await.expect("it listens")).lines();
    assert_eq!(lines.next_line().await.expect("text").as_deref(), Some("hello from us-east/ratings"));
    lines.get_mut().write_all(b"again\n").await.expect("open");
    assert_eq!(lines.next_line().await.expect("text").as_deref(), Some("again"));
    app.stop().await;
}

#[test]
fn arguments_are_checked() {
    assert_eq!(call::parse_proxy("http://127.0.0.1:15001/").as_deref(), Ok("127.0.0.1:15001"));
    for bad in ["127.0.0.1:15001", "https://a:1", "http://a"] {
        assert!(call::parse_proxy(bad).is_err(), "{bad}");
    }
    for bad in ["ratings", "=http://a/", "ratings=ratings", "ratings=https://a/"] {
        assert!(bad.parse::<Call>().is_err(), "{bad}");
    }
}
