//! The servers that are measured side by side.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum_handler::Decode;
use installation::{Error, Replica};
use measuring::{
    client::Endpoint,
    machine::Cores,
    process::{Memory, Process},
};

/// A running server.
pub struct Target {
    pub name: &'static str,
    pub endpoint: Endpoint,
    pub process: Process,
    /// What it held when it could serve and nobody had asked.
    pub idle: Memory,
    /// Ends with this.
    _server: Server,
}

enum Server {
    #[expect(dead_code, reason = "it runs until it is dropped")]
    Replica(Box<Replica>),
    #[expect(dead_code, reason = "it runs until it is dropped")]
    Child(KilledWithUs),
}

struct KilledWithUs(Child);

impl Drop for KilledWithUs {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const START_LIMIT: Duration = Duration::from_secs(10);

impl Target {
    /// The webhook itself.
    pub fn webhook(endpoint: Endpoint, replica: Replica) -> Result<Self, Error> {
        let process = Process(replica.pod.id());
        let idle = process.memory()?;
        Ok(Self { name: "webhook", endpoint, process, idle, _server: Server::Replica(Box::new(replica)) })
    }

    /// A bare handler of axum, which answers `answer`.
    pub fn axum(
        decode: Decode,
        address: IpAddr,
        directory: &Path,
        cores: Option<&Cores>,
        answer: &[u8],
    ) -> Result<Self, Error> {
        let file = directory.join("answer.json");
        fs::write(&file, answer)?;
        let program = std::env::current_exe()?;
        let mut command = server_command(&program, cores);
        let (name, decode) = match decode {
            Decode::Typed => ("axum", "typed"),
            Decode::Value => ("axum Value", "value"),
        };
        command.args([axum_handler::COMMAND, "--decode", decode, "--answer"]).arg(file);
        Self::start(name, address, command, directory)
    }

    /// The handler in Go, with a typed pod.
    pub fn go(address: IpAddr, directory: &Path, cores: Option<&Cores>) -> Result<Self, Error> {
        let program = build_go_handler()?;
        Self::start("Go", address, server_command(&program, cores), directory)
    }

    /// Each server has an address of its own, as the webhook has: the kernel remembers round-trip times by address.
    fn start(name: &'static str, address: IpAddr, mut command: Command, directory: &Path) -> Result<Self, Error> {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        fs::write(&certificate, cert.pem())?;
        fs::write(&key, signing_key.serialize_pem())?;
        let address = SocketAddr::new(address, 8443);
        command.arg("--address").arg(address.to_string());
        command.arg("--certificate").arg(certificate).arg("--key").arg(key);
        let server = KilledWithUs(command.stdin(Stdio::null()).spawn()?);
        wait_until_listening(address)?;
        let process = Process(server.0.id());
        let idle = process.memory()?;
        let endpoint = Endpoint::new(address, "localhost", cert.pem().as_bytes())?;
        Ok(Self { name, endpoint, process, idle, _server: Server::Child(server) })
    }
}

fn server_command(program: &Path, cores: Option<&Cores>) -> Command {
    cores.map_or_else(|| Command::new(program), |cores| cores.server_command(program))
}

fn wait_until_listening(address: SocketAddr) -> Result<(), Error> {
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        if started.elapsed() > START_LIMIT {
            return Err(format!("nothing listens on {address} after {} s", START_LIMIT.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Builds the module in `benches/go-handler`.
fn build_go_handler() -> Result<PathBuf, Error> {
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/go-handler");
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("go-handler");
    let mut build = Command::new("go");
    build.args(["build", "-trimpath", "-o"]).arg(&program).arg(".").current_dir(module);
    if build.status()?.success() { Ok(program) } else { Err("go build failed in benches/go-handler".into()) }
}
