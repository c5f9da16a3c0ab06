//! Keys, certificates and tokens of one control plane, made anew for each.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::kubeconfig::write_private;
use crate::random;

/// The files that the API server and the controller manager are started with.
pub(crate) struct AdminCredentials {
    pub(crate) ca_pem: String,
    pub(crate) ca_file: PathBuf,
    pub(crate) serving_certificate_file: PathBuf,
    pub(crate) serving_key_file: PathBuf,
    /// Signs the tokens of ServiceAccounts.
    pub(crate) service_account_key_file: PathBuf,
    /// Verifies them.
    pub(crate) service_account_public_key_file: PathBuf,
    /// For `--token-auth-file`.
    pub(crate) token_file: PathBuf,
    /// A member of `system:masters`, who may do everything.
    pub(crate) admin_token: String,
    pub(crate) controller_manager_token: String,
}

impl AdminCredentials {
    /// Makes all of them in `directory`.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        let (ca_pem, certificate, key) = serving_certificate().map_err(io::Error::other)?;
        let service_account_key = KeyPair::generate().map_err(io::Error::other)?;
        let admin_token = random::token()?;
        let controller_manager_token = random::token()?;
        let tokens = format!(
            "{admin_token},admin,admin,system:masters\n\
             {controller_manager_token},system:kube-controller-manager,system:kube-controller-manager\n"
        );
        let write = |name: &str, content: &str| {
            let file = directory.join(name);
            write_private(&file, content.as_bytes()).map(|()| file)
        };
        Ok(Self {
            ca_file: write("ca.crt", &ca_pem)?,
            ca_pem,
            serving_certificate_file: write("apiserver.crt", &certificate)?,
            serving_key_file: write("apiserver.key", &key)?,
            service_account_key_file: write("service-account.key", &service_account_key.serialize_pem())?,
            service_account_public_key_file: write("service-account.pub", &service_account_key.public_key_pem())?,
            token_file: write("tokens.csv", &tokens)?,
            admin_token,
            controller_manager_token,
        })
    }
}

/// A CA, and the API server's certificate by it with its key, as PEM.
fn serving_certificate() -> Result<(String, String, String), rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "acr-pull-injector test control plane");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let names = ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let mut server = CertificateParams::new(names.map(String::from))?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &authority)?;
    Ok((authority.pem(), certificate.pem(), key.serialize_pem()))
}
