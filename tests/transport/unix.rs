//! Unix sockets: who may open them, and who came.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use forebay_client::Options;
use forebay_tests::absence::panicking;
use forebay_tests::broker::Broker;
use forebay_tests::scratch::Scratch;
use libtest_mimic::Trial;

use crate::{block_on, logged, talk};

pub(crate) fn trials() -> Vec<Trial> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    let no_root = (!root).then_some("not root");
    vec![
        panicking("transport", "a_unix_socket_carries_mqtt_and_goes_with_the_broker", None, carries),
        panicking("transport", "a_unix_socket_left_behind_is_replaced", None, left_behind),
        panicking("transport", "a_unix_socket_has_a_mode_and_an_owner", no_root, rights),
        panicking("transport", "the_peers_user_is_the_user_name", None, peer),
    ]
}

struct Site {
    broker: Broker,
    path: PathBuf,
    _folder: Scratch,
}

fn site(more: &str) -> Site {
    let folder = Scratch::new("unix");
    let path = folder.path().join("mqtt.sock");
    let mut broker = Broker::prepare(None);
    // The TCP listener says when it is ready.
    broker.configure(&format!(
        "[[listeners]]\nurl = \"unix://{}\"\n{more}\n[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nanonymous = true\n",
        path.display()
    ));
    broker.run();
    Site { broker, path, _folder: folder }
}

impl Site {
    fn options(&self) -> Options {
        Options::new(&format!("unix://{}", self.path.display())).unwrap()
    }
}

fn carries() {
    let mut site = site("");
    assert_eq!(site.path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    block_on(talk(site.options()));
    logged(&site.broker, &["connected", "of user "]);
    assert_eq!(site.broker.terminate(), Some(0));
    assert!(!site.path.exists(), "the file is still there");
}

fn left_behind() {
    let mut site = site("");
    site.broker.kill();
    assert!(site.path.metadata().unwrap().file_type().is_socket());
    site.broker.run();
    block_on(talk(site.options()));
}

fn rights() {
    let site = site("mode = \"606\"\nowner = \"nobody\"\ngroup = \"4711\"");
    let meta = site.path.metadata().unwrap();
    assert_eq!((meta.mode() & 0o777, meta.gid()), (0o606, 4711));
    assert_ne!(meta.uid(), 0);
    block_on(talk(site.options()));
}

fn peer() {
    let folder = Scratch::new("acl");
    let acl = folder.path().join("acl");
    let me = std::fs::metadata("/proc/self").unwrap().uid();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let name = lines.find(|fields| fields[2] == me.to_string()).map_or(me.to_string(), |fields| fields[0].to_owned());
    std::fs::write(&acl, format!("user {name}\ntopic readwrite talk\n")).unwrap();
    let passwords = folder.path().join("passwords");
    std::fs::write(&passwords, "").unwrap();
    let (mut broker, path) = (Broker::prepare(None), folder.path().join("mqtt.sock"));
    broker.configure(&format!(
        "[access]\nacl_file = \"{}\"\npassword_file = \"{}\"\n[[listeners]]\nurl = \"unix://{}\"\nuser_from = \"peer\"\n\
         [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n",
        acl.display(),
        passwords.display(),
        path.display()
    ));
    broker.run();
    // No password, and a user name that is not believed.
    let options = Options::new(&format!("unix://{}", path.display())).unwrap();
    block_on(talk(options.clone()));
    block_on(talk(options.username("somebody else").password("wrong")));
    logged(&broker, &["connected", &format!("user=\"{name}\"")]);
}
