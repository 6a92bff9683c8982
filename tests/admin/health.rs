use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer};

use crate::{Site, until};

#[test]
fn a_broker_that_can_work_is_ready() {
    let site = Site::start("", "");
    for path in ["/healthz", "/readyz"] {
        let answer = site.http().get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
        assert_eq!(site.http().ask("HEAD", path, &[], b"").status, 200);
    }
}

#[test]
fn one_whose_store_refuses_lives_and_is_not_ready() {
    let site = Site::start("[store]\nmin_free_bytes = \"900TB\"", "");
    // It is known from the start: what must be kept is refused at once.
    let (mut kept, _) = Peer::open(&site.tcp(), &Connect::kept(Version::V5, "s"));
    assert_eq!(kept.subscribe(&[("t", 1)]), [0x97]);
    let answer = until("the store is full", || site.http().get("/readyz"), |answer| answer.status == 503);
    assert_eq!(answer.body, "the store cannot be written; durable messages are refused\n");
    assert_eq!(site.http().get("/healthz").status, 200);
    let metrics = site.http().get("/metrics").body;
    assert!(metrics.contains("\nforebay_store_failing 1\n"), "{metrics}");
}

#[test]
fn the_token_is_not_for_health() {
    let mut site = Site::start("", "");
    let token = site.broker.data().join("token");
    std::fs::write(&token, "0123456789abcdef0123\n").unwrap();
    site.broker.kill();
    let site = Site::start("", &format!("token_file = \"{}\"", token.display()));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(site.http().get(path).status, 200, "{path}");
    }
    for path in ["/metrics", "/api/status", "/api/sessions"] {
        let answer = site.http().get(path);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        let wrong = forebay_tests::http::Api::Http(site.port, Some("0123456789abcdef0124".into()));
        assert_eq!(wrong.get(path).status, 401, "{path}");
        let right = forebay_tests::http::Api::Http(site.port, Some("0123456789abcdef0123".into()));
        assert_eq!(right.get(path).status, 200, "{path}");
    }
}
