//! A copy of the store while the broker works.

use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer};
use forebay_tests::scratch::Scratch;

use crate::Site;

#[test]
fn a_copy_made_under_load_is_a_store_with_all_that_was_acknowledged_before() {
    let site = Site::start("", "");
    site.subscriber("away", "t/#").leave();
    let mut publisher = site.publisher();
    let payload = vec![b'x'; 2000];
    for id in 1..=3000u16 {
        publisher.publish(id, &format!("t/{id}"), &payload);
    }
    let socket = site.socket();
    assert_eq!(socket.ask("PUT", "/api/retained/kept", &[], b"kept").status, 200);
    let folder = Scratch::new("backup");
    let file = folder.path().join("forebay.redb");
    let target = format!("/api/store/backup?to={}", file.display());
    let copying = std::thread::spawn({
        let (socket, target) = (socket.clone(), target.clone());
        move || socket.ask("POST", &target, &[], b"")
    });
    let mut id = 3000;
    while !copying.is_finished() || id == 3000 {
        id += 1;
        publisher.publish(id, &format!("t/{id}"), &payload);
    }
    let answer = copying.join().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let meta = file.metadata().unwrap();
    assert_eq!(answer.json()["bytes"], meta.len());
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    // Not over what is there.
    assert_eq!(socket.ask("POST", &target, &[], b"").status, 409);
    assert_eq!(socket.ask("POST", "/api/store/backup?to=copy.redb", &[], b"").status, 400);
    assert_eq!(socket.ask("POST", "/api/store/backup?to=/nowhere/copy.redb", &[], b"").status, 500);
    drop(site);

    let mut second = forebay_tests::broker::Broker::prepare(Some(folder.path()));
    second.plain_only();
    second.run();
    let endpoint = forebay_tests::link::Endpoint::tcp(second.port());
    let (mut back, present) = Peer::open(&endpoint, &Connect::kept(Version::V5, "away"));
    assert!(present);
    for id in 1..=3000 {
        assert_eq!(back.message().topic, format!("t/{id}"));
    }
    let (mut other, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, "other"));
    other.send(&forebay_tests::peer::subscribe(Version::V5, 1, &[("kept", 0)]));
    let mut came = vec![other.answer(), other.answer()];
    came.retain(|came| matches!(came, forebay_tests::peer::Came::Publish(publish) if publish.payload == b"kept"));
    assert_eq!(came.len(), 1, "the retained message is in it");
}
