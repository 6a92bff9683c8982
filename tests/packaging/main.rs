//! What is installed: the unit, the .deb and the image of packaging/.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence;
use forebay_tests::broker::{free_port, program};
use forebay_tests::scratch::Scratch;
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    let mut add = |name: &str, absent: Option<String>, run: fn()| {
        trials.push(absence::panicking("packaging", name, absent.as_deref(), run));
    };
    add("the_unit_is_exposed_to_little", absence::of_program("systemd-analyze"), the_unit_is_exposed_to_little);
    add("an_image_is_what_its_digests_say", None, an_image_is_what_its_digests_say);
    add("an_image_of_a_dynamic_program_is_refused", None, an_image_of_a_dynamic_program_is_refused);
    add("scripts_are_shell", None, scripts_are_shell);
    add("the_unit_leaves_what_the_broker_needs", None, the_unit_leaves_what_the_broker_needs);
    add("the_broker_reads_what_is_installed", None, the_broker_reads_what_is_installed);
    add("an_upgrade_enables_nothing", None, an_upgrade_enables_nothing);
    add("a_broker_that_does_not_start_is_installed", None, a_broker_that_does_not_start_is_installed);
    add("every_installed_file_is_there", None, every_installed_file_is_there);
    add("the_installed_broker_starts_by_its_unit", None, the_installed_broker_starts_by_its_unit);
    libtest_mimic::run(&arguments, trials).exit();
}

/// The folder `packaging/`.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").canonicalize().unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn the_unit_is_exposed_to_little() {
    let unit = folder().join("forebay.service");
    let analysed = Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&unit).output().unwrap();
    let said = words(&analysed);
    let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
    let level: f64 = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(level < 2.0, "{line}");
}

/// Runs packaging/image on this build, which is linked to the system's libraries: what is in it is not run.
fn image(out: &Path) {
    let mut command = Command::new(folder().join("image"));
    command.arg(program()).arg("amd64").arg(out).env("FOREBAY_IMAGE_ANY", "yes");
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", words(&made));
}

/// A file of the layout, and that its name is its digest.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let file = layout.join("blobs/sha256").join(digest);
    let summed = Command::new("sha256sum").arg(&file).output().unwrap();
    assert!(words(&summed).starts_with(digest), "{descriptor}");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), descriptor["size"].as_u64().unwrap());
    file
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn unpack(archive: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    assert!(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(to).status().unwrap().success());
}

fn an_image_is_what_its_digests_say() {
    let scratch = Scratch::new("image");
    let [one, two] = ["one.tar", "two.tar"].map(|name| scratch.path().join(name));
    image(&one);
    image(&two);
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(), "made twice, not the same bytes");
    let layout = scratch.path().join("layout");
    unpack(&one, &layout);
    let manifest = json(&blob(&layout, &json(&layout.join("index.json"))["manifests"][0]));
    let config = json(&blob(&layout, &manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    let root = scratch.path().join("root");
    unpack(&blob(&layout, &manifest["layers"][0]), &root);
    assert!(std::fs::read(root.join("forebay")).unwrap() == std::fs::read(program()).unwrap());
    assert!(root.join("data").is_dir());
    // What is in it is a configuration that the program takes.
    let arguments: Vec<&str> =
        config["config"]["Cmd"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(arguments, ["--config", "/etc/forebay/forebay.toml", "--data-dir", "/data"]);
    serves(&root.join("etc/forebay/forebay.toml"), &program());
}

fn an_image_of_a_dynamic_program_is_refused() {
    let scratch = Scratch::new("image");
    let out = scratch.path().join("out.tar");
    let refused = Command::new(folder().join("image")).arg("/bin/sh").arg("amd64").arg(&out).output().unwrap();
    assert!(!refused.status.success() && words(&refused).contains("musl"), "{}", words(&refused));
    assert!(!out.exists());
}

fn scripts_are_shell() {
    for (shell, file) in [
        ("bash", "build"),
        ("bash", "image"),
        ("sh", "debian/postinst"),
        ("sh", "debian/prerm"),
        ("sh", "debian/postrm"),
        ("sh", "openwrt/forebay.init"),
    ] {
        let file = folder().join(file);
        let read = Command::new(shell).arg("-n").arg(&file).output().unwrap();
        assert!(read.status.success(), "{}", words(&read));
        assert!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o111 != 0,
            "{} is no program",
            file.display()
        );
    }
}

fn the_unit_leaves_what_the_broker_needs() {
    let unit = std::fs::read_to_string(folder().join("forebay.service")).unwrap();
    let lines: Vec<&str> = unit.lines().collect();
    for line in [
        "ExecReload=/bin/kill -HUP $MAINPID",
        "TimeoutStartSec=infinity",
        "RuntimeDirectoryMode=0711",
        "SystemCallFilter=@chown",
    ] {
        assert!(lines.contains(&line), "{line}");
    }
    // A later line adds to what an earlier one has taken away.
    let at = |wanted: &str| lines.iter().position(|line| *line == wanted).unwrap();
    assert!(at("SystemCallFilter=~@privileged @resources") < at("SystemCallFilter=@chown"));
    for hides in ["ProcSubset=", "PrivateUsers="] {
        assert!(!lines.iter().any(|line| line.starts_with(hides)), "{hides}");
    }
}

/// What postinst did below a root of its own.
struct Installed {
    root: Scratch,
    output: Output,
    /// Each program that it ran, with its arguments.
    ran: Vec<String>,
}

impl Installed {
    fn mode(&self, path: &str) -> u32 {
        std::fs::metadata(self.root.path().join(path)).unwrap().permissions().mode() & 0o777
    }

    fn ran(&self, wanted: &str) -> bool {
        self.ran.iter().any(|line| line == wanted)
    }
}

/// Runs postinst as dpkg does; what needs root, or the system's own state, only says that it ran. `group` is whose
/// the files are before, `before` the version that was installed, and `fails` a command of systemctl.
fn install(group: &str, before: &str, fails: &str) -> Installed {
    let root = Scratch::new("postinst");
    let [bin, etc] = ["bin", "etc/forebay"].map(|name| root.path().join(name));
    for folder in [&bin, &etc, &root.path().join("run/systemd/system")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::copy(folder().join("forebay.toml"), etc.join("forebay.toml")).unwrap();
    std::fs::set_permissions(&etc, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(etc.join("forebay.toml"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let log = root.path().join("log");
    for program in ["systemd-sysusers", "install", "chgrp", "stat", "systemctl"] {
        let script = format!(
            "#!/bin/sh\necho \"{program} $*\" >>'{}'\n[ {program} != stat ] || echo '{group}'\n\
             case \" $* \" in *' {fails} '*) exit 1 ;; esac\n",
            log.display()
        );
        std::fs::write(bin.join(program), script).unwrap();
        std::fs::set_permissions(bin.join(program), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut postinst = Command::new("sh");
    postinst.arg(folder().join("debian/postinst")).args(["configure", before]);
    let output = postinst.env("DPKG_ROOT", root.path()).env("PATH", path).output().unwrap();
    let ran = std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
    Installed { root, output, ran }
}

fn the_broker_reads_what_is_installed() {
    let first = install("root", "", "-");
    assert!(first.output.status.success(), "{}", words(&first.output));
    for (path, mode) in [("etc/forebay", 0o750), ("etc/forebay/forebay.toml", 0o640)] {
        assert_eq!(first.mode(path), mode, "{path}");
        let given = format!("chgrp forebay {}", first.root.path().join(path).display());
        assert!(first.ran(&given), "{given} in {:?}", first.ran);
    }
    assert!(first.ran("systemctl enable forebay.service") && first.ran("systemctl restart forebay.service"));
    // Somebody has chosen another group for them.
    let chosen = install("mqtt", "0.1.0", "-");
    assert_eq!(chosen.mode("etc/forebay/forebay.toml"), 0o600);
    assert!(!chosen.ran.iter().any(|line| line.starts_with("chgrp")), "{:?}", chosen.ran);
}

fn an_upgrade_enables_nothing() {
    let upgraded = install("forebay", "0.1.0", "-");
    assert!(upgraded.output.status.success(), "{}", words(&upgraded.output));
    assert!(!upgraded.ran("systemctl enable forebay.service") && upgraded.ran("systemctl restart forebay.service"));
    let disabled = install("forebay", "0.1.0", "is-enabled");
    assert!(
        disabled.ran("systemctl try-restart forebay.service") && !disabled.ran("systemctl restart forebay.service")
    );
}

fn a_broker_that_does_not_start_is_installed() {
    for (fails, says) in [("restart", "does not start"), ("enable", "is not enabled")] {
        let installed = install("root", "", fails);
        assert!(installed.output.status.success(), "{fails}: {}", words(&installed.output));
        assert!(words(&installed.output).contains(says), "{fails}: {}", words(&installed.output));
    }
}

/// The pairs of file and place that `[package.metadata.deb]` names.
fn assets() -> Vec<(PathBuf, String)> {
    let broker = folder().join("../broker");
    let manifest: toml::Table = std::fs::read_to_string(broker.join("Cargo.toml")).unwrap().parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    assets.iter().map(|asset| (broker.join(text(&asset[0])), text(&asset[1]))).collect()
}

fn every_installed_file_is_there() {
    let assets = assets();
    for (file, place) in &assets {
        // The program and its manual pages are built.
        let is_built = file.components().any(|part| part.as_os_str() == "target");
        assert!(is_built || file.is_file(), "{} for {place}", file.display());
    }
    let unit = std::fs::read_to_string(folder().join("forebay.service")).unwrap();
    for path in ["/usr/bin/forebay", "/etc/forebay/forebay.toml"] {
        let place = path.trim_start_matches('/');
        let installed = |(file, to): &(PathBuf, String)| {
            to == place || to.ends_with('/') && place == format!("{to}{}", file.file_name().unwrap().display())
        };
        assert!(unit.contains(path) && assets.iter().any(installed), "{path}");
    }
}

/// The command line of ExecStart, in a folder of its own.
fn the_installed_broker_starts_by_its_unit() {
    let unit = std::fs::read_to_string(folder().join("forebay.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let wanted = "/usr/bin/forebay --config /etc/forebay/forebay.toml --data-dir /var/lib/forebay";
    assert_eq!(line, wanted);
    serves(&folder().join("forebay.toml"), &program());
}

/// A broker with this configuration, on a port that is free, takes a message and stops when it is told to.
fn serves(config: &Path, program: &Path) {
    let scratch = Scratch::new("installed");
    let port = free_port();
    let text = std::fs::read_to_string(config).unwrap();
    let here = text.lines().map(|line| {
        if line.starts_with("url = ") { format!("url = \"mqtt://127.0.0.1:{port}\"") } else { line.to_owned() }
    });
    let file = scratch.path().join("forebay.toml");
    std::fs::write(&file, here.collect::<Vec<_>>().join("\n")).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(&file).arg("--data-dir").arg(scratch.path().join("data"));
    let mut broker = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let port = port.to_string();
    while !Command::new(program)
        .args(["pub", "-p", &port, "-t", "t", "-q", "1", "-m", "x"])
        .output()
        .unwrap()
        .status
        .success()
    {
        assert!(begun.elapsed() < Duration::from_secs(30) && broker.try_wait().unwrap().is_none(), "it does not start");
    }
    assert!(Command::new("kill").arg(broker.id().to_string()).status().unwrap().success());
    assert_eq!(broker.wait().unwrap().code(), Some(0));
}
