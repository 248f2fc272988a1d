//! Debian packages without touching the user's apt: own package lists and an own cache below `build/apt/`, with sources
//! derived from the machine's own. From them come the emulator (installed, when we are root), and single files of packages
//! of any architecture (unpacked below `build/`, which needs no rights).
//!
//! The derived sources add the backports suite, where newer QEMUs are, and the firmware component, where the Pi's boot
//! loader is. The user's dpkg never learns of a foreign architecture.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::steps;
use crate::workspace;

/// Whose packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// This machine's.
    Host,
    /// The Pi's.
    Arm64,
}

/// apt with a private state for one architecture.
pub struct Apt {
    architecture: Architecture,
    state: PathBuf,
    suite: String,
}

impl Apt {
    /// Fetches the package lists when there are none or they are a day old. The error is one sentence for the user.
    pub fn open(architecture: Architecture) -> Result<Apt> {
        ensure!(exists("apt-get") && exists("dpkg"), "this machine has no apt-get");
        let suite = codename()?;
        let state = workspace::build(match architecture {
            Architecture::Host => "apt/host",
            Architecture::Arm64 => "apt/arm64",
        });
        for folder in ["lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(state.join(folder))?;
        }
        let apt = Apt { architecture, state, suite };
        apt.update()?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.state.join(name).display().to_string();
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").args([
            "-q".to_string(),
            "-oDir::Etc::SourceList=/dev/null".to_string(),
            format!("-oDir::Etc::SourceParts={}", path("sources")),
            format!("-oDir::State::Lists={}", path("lists")),
            format!("-oDir::Cache={}", path("cache")),
            "-oAcquire::Languages=none".to_string(),
            "-oAcquire::Retries=2".to_string(),
            // The unprivileged user that apt downloads as may not be able to write into the tree.
            "-oAPT::Sandbox::User=root".to_string(),
        ]);
        if self.architecture == Architecture::Arm64 {
            command.args(["-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64", "-oDir::State::status=/dev/null"]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        let stamp = self.state.join("updated");
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age.as_secs() < 24 * 3600) {
            return Ok(());
        }
        let sources = derive_sources(&machine_sources()?, &self.suite);
        ensure!(!sources.is_empty(), "apt has no Debian source for {}", self.suite);
        let file = self.state.join("sources/drupe.sources");
        fs::write(&file, &sources)?;
        let title = match self.architecture {
            Architecture::Host => "Fetching Debian's package lists",
            Architecture::Arm64 => "Fetching Debian's arm64 package lists",
        };
        if steps::capture(title, self.command("apt-get").args(["update", "--error-on=any"])).is_err() {
            // A mirror may lack the backports.
            fs::write(&file, sources.replace(&format!(" {}-backports", self.suite), ""))?;
            steps::run(title, self.command("apt-get").args(["update", "--error-on=any"]))
                .context("apt cannot fetch its package lists; connect this machine to a Debian mirror")?;
        }
        fs::write(stamp, "")?;
        Ok(())
    }

    /// Installs on this machine. Prefers the backports.
    pub fn install(&self, packages: &[&str]) -> Result<()> {
        let sentence = format!("install {} (as root: apt-get install {})", packages.join(", "), packages.join(" "));
        let root = steps::ask(Command::new("id").arg("-u"))?.trim() == "0";
        let sudo =
            || Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        ensure!(root || sudo(), "{sentence}");
        let mut apt = self.command("apt-get");
        apt.args(["install", "-y", "--no-install-recommends"]);
        if self.state.join("sources/drupe.sources").exists() && self.has_backports()? {
            apt.arg(format!("--target-release={}-backports", self.suite));
        }
        apt.args(packages);
        let title = format!("Installing {}", packages.join(", "));
        if root {
            steps::run(&title, &mut apt).context(sentence)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive"]).arg(apt.get_program()).args(apt.get_args());
            steps::run(&title, &mut sudo).context(sentence)
        }
    }

    fn has_backports(&self) -> Result<bool> {
        Ok(fs::read_to_string(self.state.join("sources/drupe.sources"))?.contains("-backports"))
    }

    /// Downloads a package and returns its file, which the caller may delete when it has taken what it wants.
    /// `release`: from the backports when they have it.
    pub fn download(&self, package: &str, release: Release) -> Result<PathBuf> {
        let folder = self.state.join("cache/archives");
        let prefix = format!("{package}_");
        let find = || -> Result<Option<PathBuf>> {
            let mut paths = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
            Ok(paths.find(|path| {
                path.extension().is_some_and(|extension| extension == "deb")
                    && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            }))
        };
        if let Some(path) = find()? {
            return Ok(path);
        }
        let mut command = self.command("apt-get");
        command.current_dir(&folder);
        if release == Release::Backports && self.has_backports()? {
            command.arg(format!("--target-release={}-backports", self.suite));
        }
        steps::run(&format!("Downloading {package}"), command.args(["download", package]))?;
        find()?.with_context(|| format!("apt downloaded {package}, but there is no file"))
    }

    /// A field of a package's record, such as `Depends`.
    pub fn field(&self, package: &str, field: &str, release: Release) -> Result<String> {
        let mut command = self.command("apt-cache");
        if release == Release::Backports && self.has_backports()? {
            command.arg(format!("-oAPT::Default-Release={}-backports", self.suite));
        }
        let record = steps::ask(command.args(["show", "--no-all-versions", package]))?;
        let mark = format!("{field}: ");
        let line = record.lines().find_map(|line| line.strip_prefix(&mark));
        Ok(line.with_context(|| format!("package {package} has no {field}"))?.to_string())
    }
}

/// Which suite a download prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    Stable,
    Backports,
}

/// Takes one file out of a package: the first whose path matches the shell pattern `member` (from `./`).
pub fn extract(package: &Path, member: &str, target: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn()?;
    let stream = dpkg.stdout.take().context("dpkg has no output")?;
    let output = Command::new("tar").args(["-xO", "--wildcards", member]).stdin(stream).output()?;
    dpkg.wait()?;
    ensure!(output.status.success() && !output.stdout.is_empty(), "{} has no {member}", package.display());
    // Renamed when complete: an interrupted run must not leave half a file that the next takes for a whole.
    let partial = target.with_extension("partial");
    fs::write(&partial, output.stdout)?;
    fs::rename(partial, target)?;
    Ok(())
}

/// Whether a program is found in the search path.
pub fn exists(program: &str) -> bool {
    find_program(program).is_some()
}

pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps some of them out of a user's path.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("this machine is not a Debian")?;
    let Some(name) = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")) else {
        bail!("/etc/os-release does not say which Debian this is");
    };
    Ok(name.trim_matches('"').to_string())
}

/// All of the machine's apt sources, each as a stanza of the deb822 form.
fn machine_sources() -> Result<Vec<String>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())),
    );
    files.sort();
    let mut stanzas = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas.extend(text.split("\n\n").map(str::to_string)),
            Some("list") => stanzas.extend(text.lines().filter_map(stanza_of_line)),
            _ => {}
        }
    }
    Ok(stanzas)
}

/// `deb [signed-by=KEY] URI SUITE COMPONENT...` as a stanza.
fn stanza_of_line(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components: Vec<&str> = words.collect();
    let mut stanza = format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {}\n", components.join(" "));
    if let Some(key) = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")) {
        stanza.push_str(&format!("Signed-By: {key}\n"));
    }
    Some(stanza)
}

/// Keeps the stanzas of the Debian release `suite`; the main one also gets its backports, all get the firmware component.
fn derive_sources(stanzas: &[String], suite: &str) -> String {
    let mut derived = String::new();
    for stanza in stanzas {
        let fields = || stanza.lines().filter(|line| !line.starts_with('#'));
        let field = |name: &str| fields().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let suites = field("Suites:").unwrap_or("");
        let components = field("Components:").unwrap_or("");
        let ours = suites.split_whitespace().any(|name| name == suite || name.starts_with(&format!("{suite}-")));
        let binary = field("Types:").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
        if !ours || !binary || !components.split_whitespace().any(|name| name == "main") {
            continue;
        }
        for line in fields().filter(|line| !line.trim().is_empty()) {
            let backports = format!("{suite}-backports");
            let line = if line.starts_with("Suites:") && suites.split_whitespace().any(|name| name == suite) {
                let others: Vec<&str> = suites.split_whitespace().filter(|name| *name != backports).collect();
                format!("Suites: {} {backports}", others.join(" "))
            } else if line.starts_with("Components:") {
                "Components: main non-free-firmware".to_string()
            } else if line.starts_with("Types:") {
                "Types: deb".to_string()
            } else if line.starts_with("Architectures:") {
                continue;
            } else {
                line.to_string()
            };
            derived.push_str(&line);
            derived.push('\n');
        }
        derived.push('\n');
    }
    derived
}

#[cfg(test)]
mod tests {
    use super::{derive_sources, stanza_of_line};

    #[test]
    fn backports_are_added_to_the_main_source_and_strangers_are_left_out() {
        let main = "Types: deb deb-src\n# a note\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /key\n";
        let security =
            "Types: deb\nURIs: http://mirror/security\nSuites: bookworm-security\nComponents: main contrib\n";
        let other = "Types: deb\nURIs: http://elsewhere\nSuites: nodistro\nComponents: main\n";
        let derived = derive_sources(&[main.into(), security.into(), other.into()], "bookworm");
        assert_eq!(
            derived,
            "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates bookworm-backports\n\
             Components: main non-free-firmware\nSigned-By: /key\n\n\
             Types: deb\nURIs: http://mirror/security\nSuites: bookworm-security\nComponents: main non-free-firmware\n\n"
        );
    }

    #[test]
    fn a_line_of_the_old_form_is_a_stanza() {
        let stanza = stanza_of_line("deb [arch=amd64 signed-by=/key] http://mirror/debian bookworm main contrib");
        let expected =
            "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm\nComponents: main contrib\nSigned-By: /key\n";
        assert_eq!(stanza.as_deref(), Some(expected));
        assert_eq!(stanza_of_line("# deb http://mirror bookworm main"), None);
        assert_eq!(stanza_of_line("deb-src http://mirror bookworm main"), None);
    }
}
