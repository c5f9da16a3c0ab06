//! Registries of the distribution project under the names that users spell, and a client that pulls from them.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use control_plane::{BackgroundProgram, ControlPlane, crane_program, registry_program};
use fake_azure::FakeAzure;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::{net::UnixStream, process::Command, sync::OnceCell};

use super::proxy::{Proxy, Target};
use crate::world::{Error, World, eventually};

const PUSHER: (&str, &str) = ("pusher", "pusher-password");
const PULL_TIMEOUT: Duration = Duration::from_secs(60);

/// Registries with one store of images: `app:v1` is in all of them.
pub struct Registries {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    proxy: Proxy,
    program: PathBuf,
    crane: PathBuf,
    started: Vec<BackgroundProgram>,
    digest: String,
}

/// How a pull ended. Any other end is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    Done,
    Unauthorized,
}

/// Who may do what.
pub enum Authentication<'a> {
    /// Basic authentication of these users, everything allowed.
    Basic(&'a [(&'a str, &'a str)]),
    /// Tokens for those whom the registry of this name in Azure lets in, to pull only. The challenge names an endpoint of
    /// Azure under `token_host` (with its port, unless it is 443).
    Azure { azure: &'a FakeAzure, token_host: String },
}

/// The registries of all cases; the first one starts them.
pub async fn registries(world: &World) -> Result<&'static Registries, Error> {
    // What it started ends with the control plane.
    static REGISTRIES: OnceCell<Registries> = OnceCell::const_new();
    REGISTRIES.get_or_try_init(|| Registries::start(&world.control_plane)).await
}

impl Registries {
    async fn start(control_plane: &ControlPlane) -> Result<Self, Error> {
        let (program, crane) =
            tokio::task::spawn_blocking(|| Ok::<_, Error>((registry_program()?, crane_program()?))).await??;
        let directory = control_plane.directory().join("registries");
        fs::create_dir(&directory)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "CA of the registries");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        let proxy = Proxy::start().await?;
        let (started, digest) = (Vec::new(), String::new());
        let mut registries = Self { directory, issuer, proxy, program, crane, started, digest };
        registries.trust(&registries.issuer.pem())?;
        for (log, host, users) in [
            ("registry-contoso", "contoso.azurecr.io", [("contoso-app", "contoso-password"), PUSHER]),
            ("registry-fabrikam", "fabrikam.azurecr.io", [("fabrikam-token", "fabrikam-password"), PUSHER]),
        ] {
            let program = registries.run(control_plane, log, host, Authentication::Basic(&users)).await?;
            registries.started.push(program);
        }
        registries.digest = registries.push().await?;
        Ok(registries)
    }

    /// Runs one more registry, reached as `https://<host>`. It ends with what is returned.
    pub async fn run(
        &self,
        control_plane: &ControlPlane,
        log: &'static str,
        host: &str,
        authentication: Authentication<'_>,
    ) -> Result<BackgroundProgram, Error> {
        let directory = self.directory.join(log);
        fs::create_dir(&directory)?;
        let name = host.split(':').next().unwrap_or(host);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        fs::write(directory.join("tls.crt"), certificate.pem())?;
        fs::write(directory.join("tls.key"), key.serialize_pem())?;
        let socket = directory.join("socket");
        // JSON is YAML too. A reference of all fields: https://distribution.github.io/distribution/about/configuration.
        let configuration = json!({
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": self.directory.join("images")}},
            "http": {
                "net": "unix",
                "addr": socket,
                "secret": "of no use: nobody pushes to more than one",
                "tls": {"certificate": directory.join("tls.crt"), "key": directory.join("tls.key")},
            },
            "auth": self.authentication(&directory, authentication)?,
        });
        let file = directory.join("config.yml");
        fs::write(&file, configuration.to_string())?;
        // Traces would go to a collector on this machine.
        let arguments = ["OTEL_TRACES_EXPORTER=none", &text(&self.program), "serve", &text(&file)].map(str::to_owned);
        let program = BackgroundProgram::start(control_plane, log, Path::new("/usr/bin/env"), &arguments)?;
        eventually(log, || async {
            if program.has_ended() {
                return Err(format!("{log} has ended:\n{}", program.last_log_lines()).into());
            }
            Ok(UnixStream::connect(&socket).await.ok().map(drop))
        })
        .await?;
        self.proxy.lead(&with_port(host), Target::Socket(socket));
        Ok(program)
    }

    fn authentication(&self, directory: &Path, authentication: Authentication<'_>) -> Result<Value, Error> {
        match authentication {
            Authentication::Basic(users) => {
                // The lowest cost there is: each request is checked anew.
                let line = |(name, password): &(&str, &str)| Ok(format!("{name}:{}", bcrypt::hash(password, 4)?));
                let lines = users.iter().map(line).collect::<Result<Vec<_>, Error>>()?;
                fs::write(directory.join("htpasswd"), lines.join("\n"))?;
                Ok(json!({"htpasswd": {"realm": "registry", "path": directory.join("htpasswd")}}))
            }
            Authentication::Azure { azure, token_host } => {
                fs::write(directory.join("keys.json"), azure.registry_keys())?;
                self.trust(azure.ca_pem())?;
                self.proxy.lead(&with_port(&token_host), Target::Address(azure.registry_address()));
                Ok(json!({"token": {
                    "realm": format!("https://{token_host}/oauth2/token"),
                    "service": token_host,
                    "issuer": "Azure Container Registry",
                    "jwks": directory.join("keys.json"),
                    "signingalgorithms": ["ES256"],
                }}))
            }
        }
    }

    /// The digest of `app:v1`.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Pulls an image with these bytes as the client's configuration, or with none.
    pub async fn pull(&self, image: &str, docker_config: Option<&[u8]>) -> Result<Pull, Error> {
        let directory = tempfile::tempdir_in(&self.directory)?;
        let image_file = directory.path().join("image.tar");
        match self.crane(directory.path(), docker_config, &["pull", image, &text(&image_file)]).await {
            Ok(_) if fs::metadata(&image_file)?.len() > 0 => Ok(Pull::Done),
            Ok(_) => Err("crane wrote an empty file".into()),
            // The code that goes with status 401; crane does not show the number then.
            Err(error) if error.to_string().contains(": UNAUTHORIZED: ") => Ok(Pull::Unauthorized),
            Err(error) => Err(error),
        }
    }

    /// Stores the image `app:v1` as somebody who may push, and gives its digest.
    async fn push(&self) -> Result<String, Error> {
        let directory = tempfile::tempdir_in(&self.directory)?;
        let layer = directory.path().join("layer.tar");
        // The smallest archive: its end.
        fs::write(&layer, [0; 1024])?;
        let (username, password) = PUSHER;
        let login = json!({"auths": {"contoso.azurecr.io": {"username": username, "password": password}}}).to_string();
        let image = "contoso.azurecr.io/app:v1";
        let arguments = ["append", "--new_layer", &text(&layer), "--new_tag", image];
        self.crane(directory.path(), Some(login.as_bytes()), &arguments).await?;
        self.crane(directory.path(), Some(login.as_bytes()), &["digest", image]).await
    }

    async fn crane(&self, directory: &Path, docker_config: Option<&[u8]>, arguments: &[&str]) -> Result<String, Error> {
        if let Some(bytes) = docker_config {
            fs::write(directory.join("config.json"), bytes)?;
        }
        let environment = BTreeMap::from([
            ("DOCKER_CONFIG", text(directory)),
            ("HOME", text(directory)),
            ("HTTPS_PROXY", self.proxy.url()),
            ("SSL_CERT_FILE", text(&self.ca_file())),
        ]);
        let mut command = Command::new(&self.crane);
        command.args(arguments).env_clear().envs(environment).current_dir(directory).kill_on_drop(true);
        let output = tokio::time::timeout(PULL_TIMEOUT, command.output())
            .await
            .map_err(|_| format!("crane {arguments:?} did not end"))??;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
        }
        Err(format!("crane {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }

    fn trust(&self, pem: &str) -> Result<(), Error> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ca_file())?;
        Ok(file.write_all(pem.as_bytes())?)
    }

    fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }
}

fn with_port(host: &str) -> String {
    if host.contains(':') { host.to_owned() } else { format!("{host}:443") }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
