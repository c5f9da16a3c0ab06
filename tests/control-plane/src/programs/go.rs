//! Builds programs with the Go toolchain.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{ProgramError, Workbench, cache};
use crate::daemon::last_lines;

const SHOWN_OUTPUT_LINES: usize = 30;

/// How to build the programs of one version of one product.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) product: &'static str,
    /// As a Go module version.
    pub(super) version: String,
    /// The module was written by us a moment ago: Go may complete it, and may fetch the toolchain that it asks for.
    pub(super) generated: bool,
    pub(super) linker_flags: String,
    /// Program names and the packages that they are built from.
    pub(super) packages: Vec<(&'static str, &'static str)>,
    /// How long a first build takes on a small machine, in words.
    pub(super) expected: &'static str,
}

/// Builds `packages` of the recipe into `output`, in the Go module in `module`, telling the progress.
pub(super) fn build(
    workbench: &Workbench,
    recipe: &Recipe,
    module: &Path,
    packages: &[(&'static str, &'static str)],
    output: &Path,
) -> Result<(), ProgramError> {
    let progress = &workbench.progress;
    check_toolchain(workbench, recipe, module)?;
    let names = packages.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(" and ");
    let what = format!("building {names} {}", recipe.version);
    progress.say(&format!(
        "{what} from Go modules: {}, once; kept in {}",
        recipe.expected,
        output.parent().unwrap_or(output).display()
    ));
    let mut stopwatch = progress.stopwatch();
    let mut child = build_command(workbench, recipe, module, packages, output)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(recipe.product, &error))?;
    let errors = child.stderr.take();
    let compiled = AtomicUsize::new(0);
    let (status, output) = thread::scope(|scope| {
        let reader = scope.spawn(|| errors.map(|errors| collect(errors, &compiled)).unwrap_or_default());
        loop {
            match child.try_wait() {
                Ok(None) => {
                    stopwatch.tick(&format!("{what}: {} packages compiled", compiled.load(Ordering::Relaxed)));
                    thread::sleep(Duration::from_millis(200));
                }
                ended => return (ended.ok().flatten(), reader.join().unwrap_or_default()),
            }
        }
    });
    if status.is_some_and(|status| status.success()) {
        stopwatch.finish(&format!("{what}: done"));
        Ok(())
    } else {
        let command = format!("go build {names} {}", recipe.version);
        Err(ProgramError::Go { command, output: last_lines(&output, SHOWN_OUTPUT_LINES).to_owned() })
    }
}

/// Runs a short go command outside of any module and returns what it prints.
pub(super) fn run(workbench: &Workbench, product: &'static str, arguments: &[&str]) -> Result<String, ProgramError> {
    let output = command(workbench, true).args(arguments).current_dir("/").stdin(Stdio::null()).output();
    let output = output.map_err(|error| not_started(product, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(ProgramError::Go {
        command: format!("go {}", arguments.join(" ")),
        output: last_lines(&errors, SHOWN_OUTPUT_LINES).to_owned(),
    })
}

/// The version of `module` that the go.mod in `directory` requires.
pub(super) fn required_version(directory: &Path, module: &'static str) -> Result<String, ProgramError> {
    let path = directory.join("go.mod");
    let file = fs::read_to_string(&path).map_err(|source| cache::failure(&path, source))?;
    let mut lines = file.lines().map(|line| line.trim().trim_start_matches("require "));
    lines
        .find_map(|line| line.strip_prefix(module)?.strip_prefix(' '))
        .and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .ok_or(ProgramError::Pin { path, module })
}

/// For the message when there is no Go at all: what the pinned modules ask for.
const OLDEST_GO: &str = "1.26";

/// Asks Go for its version inside the module, where it switches to a newer toolchain if it is allowed to.
fn check_toolchain(workbench: &Workbench, recipe: &Recipe, module: &Path) -> Result<(), ProgramError> {
    let required = go_directive(module).unwrap_or_else(|| OLDEST_GO.to_owned());
    let mut question = command(workbench, recipe.generated);
    let answer = question.args(["env", "GOVERSION"]).current_dir(module).stdin(Stdio::null()).output();
    let answer = answer.map_err(|error| not_started(recipe.product, &error))?;
    let too_old = |found: &str| ProgramError::GoTooOld {
        product: recipe.product,
        required: required.clone(),
        found: found.trim().to_owned(),
    };
    if !answer.status.success() {
        return Err(too_old(&String::from_utf8_lossy(&answer.stderr)));
    }
    let found = String::from_utf8_lossy(&answer.stdout).into_owned();
    if numbers(found.trim().trim_start_matches("go")) < numbers(&required) {
        return Err(too_old(&found));
    }
    Ok(())
}

fn go_directive(module_directory: &Path) -> Option<String> {
    let file = fs::read_to_string(module_directory.join("go.mod")).ok()?;
    file.lines().find_map(|line| line.strip_prefix("go ").map(|version| version.trim().to_owned()))
}

/// `1.26.8` as comparable numbers; what follows a `rc` or a blank is left out.
fn numbers(version: &str) -> Vec<u32> {
    let digits =
        version.split(|character: char| character != '.' && !character.is_ascii_digit()).next().unwrap_or_default();
    digits.split('.').filter_map(|number| number.parse().ok()).collect()
}

fn build_command(
    workbench: &Workbench,
    recipe: &Recipe,
    module: &Path,
    packages: &[(&'static str, &'static str)],
    output: &Path,
) -> Command {
    let mut command = command(workbench, recipe.generated);
    // -v names each package as it is compiled, which is our progress.
    command.current_dir(module).args(["build", "-v", "-trimpath", "-buildvcs=false"]);
    if recipe.generated {
        command.arg("-mod=mod");
    }
    command.arg(format!("-ldflags={}", recipe.linker_flags)).arg("-o");
    // Go names a program after its package's path; with one package we can name it ourselves.
    match packages {
        [(program, _)] => command.arg(output.join(program)),
        _ => command.arg(output),
    };
    command.args(packages.iter().map(|(_, package)| *package));
    command
}

fn command(workbench: &Workbench, may_fetch_toolchain: bool) -> Command {
    let mut command = Command::new("go");
    command.env("PATH", &workbench.environment.path).env("CGO_ENABLED", "0").env("GOWORK", "off").env_remove("GOFLAGS");
    if may_fetch_toolchain {
        command.env("GOTOOLCHAIN", "auto");
    }
    command
}

fn not_started(product: &'static str, error: &io::Error) -> ProgramError {
    match error.kind() {
        io::ErrorKind::NotFound => ProgramError::GoMissing { product, required: OLDEST_GO.to_owned() },
        _ => ProgramError::Go { command: "go".to_owned(), output: error.to_string() },
    }
}

/// Counts compiled packages and keeps everything that Go says, for the case that it fails.
fn collect(errors: impl io::Read, compiled: &AtomicUsize) -> String {
    let mut output = String::new();
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        if !line.starts_with("go: ") {
            compiled.fetch_add(1, Ordering::Relaxed);
        }
        output.push_str(&line);
        output.push('\n');
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolchain_versions_compare_by_number() {
        assert!(numbers("1.26.8") > numbers("1.26.0"));
        assert!(numbers("1.9") < numbers("1.26"));
        assert!(numbers("1.27rc1") > numbers("1.26.8"));
        assert!(numbers("1.26.8 X:nocoverageredesign") == numbers("1.26.8"));
    }

    #[test]
    fn the_pinned_modules_name_their_versions() {
        for (name, module) in [
            ("kubernetes", "k8s.io/kubernetes"),
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("helm", "helm.sh/helm/v3"),
            ("registry", "github.com/distribution/distribution/v3"),
            ("crane", "github.com/google/go-containerregistry"),
        ] {
            let version = required_version(&super::super::pinned_module(name), module).unwrap();
            assert!(version.starts_with('v') && version.contains('.'), "{module} {version}");
        }
    }
}
