//! What the tools download from: nginx on loopback, as the API and as the object store, over http
//! and over https.
//!
//! The API answers view calls from prepared files and download calls with a 307 to the store, as
//! the real one does. HTTP/1.1 and TLS 1.3; the certificates come from an authority made for this
//! run.

use std::fmt;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, geteuid, kill_process, set_parent_process_death_signal};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::data::{Data, Set, write};
use super::measure::Group;
use super::trouble::{Doing as _, Trouble};

/// First argument of what becomes nginx.
pub(crate) const SERVER_LEASH: &str = "--server-leash";
/// Longest wait for nginx to answer, and for it to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions whether it answers.
const LOOK: Duration = Duration::from_millis(20);
/// Processes of nginx that serve.
const WORKERS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// What a tool reads its job from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum List {
    /// `curl -K`: addresses and where each goes.
    Curl,
    /// `aria2c -i`: the same.
    Aria2,
    Addresses,
    /// File IDs, one a line.
    Ids,
}

/// A port for each origin.
#[derive(Debug, Clone, Copy)]
struct Ports {
    api: u16,
    store: u16,
    api_tls: u16,
    store_tls: u16,
}

/// A running nginx; ends when dropped.
#[derive(Debug)]
pub(crate) struct Rig {
    nginx: Child,
    group: Group,
    folder: PathBuf,
    ports: Ports,
}

impl Rig {
    /// Lays these sets out in an empty folder, starts nginx, and waits until all four origins
    /// answer.
    pub(crate) async fn start(folder: &Path, data: &Data, sets: &[Set]) -> Result<Self, Trouble> {
        for path in [folder, data.folder()] {
            if path.to_string_lossy().contains(['"', '$', '\\', '\n', ';', '{', '}']) {
                return Err(Trouble::Wrong(format!(
                    "nginx cannot be told a path like {}",
                    path.display()
                )));
            }
        }
        for name in ["view/http", "view/https", "lists", "tls", "tmp"] {
            fs::create_dir_all(folder.join(name))
                .doing(|| "the rig's folder cannot be made".to_owned())?;
        }
        let ports = Ports::free()?;
        certify(&folder.join("tls"))?;
        for &set in sets {
            for scheme in [Scheme::Http, Scheme::Https] {
                write_lists(folder, ports, scheme, set)?;
            }
        }
        write(&folder.join("nginx.conf"), nginx_conf(folder, data.folder(), ports).as_bytes())?;
        let itself = std::env::current_exe().doing(|| "cannot find this program".to_owned())?;
        let nginx = Command::new(itself)
            .args([SERVER_LEASH, "nginx", "-p"])
            .arg(folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .arg("-e")
            .arg(folder.join("error.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .doing(|| "cannot start nginx".to_owned())?;
        let group = Group::of(&nginx);
        let mut rig = Self { nginx, group, folder: folder.to_owned(), ports };
        rig.answers().await?;
        Ok(rig)
    }

    /// Lets nginx end by itself.
    pub(crate) async fn stop(mut self) -> Result<(), Trouble> {
        self.signal(Signal::QUIT);
        match timeout(PATIENCE, self.nginx.wait()).await {
            Ok(Ok(_)) => {
                self.group.ended();
                Ok(())
            }
            Ok(Err(error)) => Err(error).doing(|| "cannot wait for nginx".to_owned()),
            Err(_) => {
                Err(Trouble::Wrong(format!("nginx did not end within {PATIENCE:?}; it is killed")))
            }
        }
    }

    /// What goes into `api.base_url`.
    pub(crate) fn api_base_url(&self, scheme: Scheme) -> String {
        format!("{}/2.11", origin(scheme, self.ports.api(scheme)))
    }

    /// The folder of the store that has every file under its ID.
    pub(crate) fn store_url(&self, scheme: Scheme) -> String {
        format!("{}/blob", origin(scheme, self.ports.store(scheme)))
    }

    /// The certificate of the authority.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.join("tls/ca.pem")
    }

    /// Where a list of a set is.
    pub(crate) fn list(&self, scheme: Scheme, set: Set, list: List) -> PathBuf {
        list_path(&self.folder, scheme, set, list)
    }

    /// Asks each origin until it answers; `curl` is needed anyway.
    async fn answers(&mut self) -> Result<(), Trouble> {
        let began = Instant::now();
        for scheme in [Scheme::Http, Scheme::Https] {
            for port in [self.ports.api(scheme), self.ports.store(scheme)] {
                let address = format!("{}/ready", origin(scheme, port));
                while let Err(words) = self.ask(&address).await {
                    let gone = !matches!(self.nginx.try_wait(), Ok(None));
                    if gone || began.elapsed() > PATIENCE {
                        let log =
                            fs::read_to_string(self.folder.join("error.log")).unwrap_or_default();
                        let needed = "nginx does not answer; 1.19.5 or later is needed";
                        return Err(Trouble::Wrong(format!("{needed}\n{words}\n{log}")));
                    }
                    sleep(LOOK).await;
                }
            }
        }
        Ok(())
    }

    /// The folder is this run's own: another server that has taken the port gives another answer.
    async fn ask(&self, address: &str) -> Result<(), String> {
        let asked = Command::new("curl")
            .args(["-q", "-sS", "-m1", "--noproxy", "*", "--cacert"])
            .arg(self.ca_file())
            .arg(address)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let output = asked.map_err(|error| error.to_string())?;
        if output.stdout == self.folder.to_string_lossy().as_bytes() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(String::from_utf8_lossy(&said).into_owned())
    }

    fn signal(&self, signal: Signal) {
        let id = self.nginx.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may end by itself just now.
            let _ = kill_process(id, signal);
        }
    }
}

/// Becomes the command in `arguments`, which ends with the process that started this.
pub(crate) fn be_leashed(arguments: &[String]) -> Trouble {
    use std::os::unix::process::CommandExt as _;

    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return Trouble::Io {
            doing: "cannot bind nginx to its parent".to_owned(),
            source: error.into(),
        };
    }
    let Some((program, arguments)) = arguments.split_first() else {
        return Trouble::Wrong("no command".to_owned());
    };
    let source = std::process::Command::new(program).args(arguments).exec();
    Trouble::Io { doing: format!("{program} does not start"), source }
}

impl Ports {
    /// Four that nobody listens on.
    fn free() -> Result<Self, Trouble> {
        let words = || "no free port on loopback".to_owned();
        // All are held until the last is known, so that they differ.
        let mut held = Vec::new();
        let mut next = || -> Result<u16, Trouble> {
            let listener = TcpListener::bind("127.0.0.1:0").doing(words)?;
            let port = listener.local_addr().doing(words)?.port();
            held.push(listener);
            Ok(port)
        };
        Ok(Self { api: next()?, store: next()?, api_tls: next()?, store_tls: next()? })
    }

    fn api(self, scheme: Scheme) -> u16 {
        match scheme {
            Scheme::Http => self.api,
            Scheme::Https => self.api_tls,
        }
    }

    fn store(self, scheme: Scheme) -> u16 {
        match scheme {
            Scheme::Http => self.store,
            Scheme::Https => self.store_tls,
        }
    }
}

fn origin(scheme: Scheme, port: u16) -> String {
    format!("{scheme}://127.0.0.1:{port}")
}

/// An authority and a certificate of it for 127.0.0.1.
fn certify(folder: &Path) -> Result<(), Trouble> {
    let words = || "cannot make the certificates".to_owned();
    let failed = std::io::Error::other::<rcgen::Error>;
    let mut params = CertificateParams::new(Vec::new()).map_err(failed).doing(words)?;
    // Equal names would make the certificate look self-signed.
    params.distinguished_name.push(DnType::CommonName, "transfer benchmark");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().map_err(failed).doing(words)?;
    let ca = params.self_signed(&ca_key).map_err(failed).doing(words)?;
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().map_err(failed).doing(words)?;
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(failed).doing(words)?;
    let leaf = leaf.signed_by(&key, &issuer).map_err(failed).doing(words)?;
    write(&folder.join("ca.pem"), ca.pem().as_bytes())?;
    write(&folder.join("leaf.pem"), leaf.pem().as_bytes())?;
    write(&folder.join("leaf.key"), key.serialize_pem().as_bytes())
}

fn list_path(folder: &Path, scheme: Scheme, set: Set, list: List) -> PathBuf {
    let kind = match list {
        List::Curl => "curl",
        List::Aria2 => "aria2",
        List::Addresses => "addresses",
        List::Ids => "ids",
    };
    folder.join(format!("lists/{scheme}-{}.{kind}", set.name))
}

/// The view answer of a set, and what the other tools are told instead.
fn write_lists(folder: &Path, ports: Ports, scheme: Scheme, set: Set) -> Result<(), Trouble> {
    let (mut curl, mut aria2, mut addresses, mut ids) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut files = Vec::new();
    for (number, id) in (1..).zip(set.ids()) {
        let address =
            format!("{}/2.11/exports/download?id={id}", origin(scheme, ports.api(scheme)));
        curl.push(format!("url = \"{address}\"\noutput = \"{id}\"\n"));
        aria2.push(format!("{address}\n out={id}\n"));
        addresses.push(format!("{address}\n"));
        ids.push(format!("{id}\n"));
        files.push(json!({ "id": id, "part": number, "size": set.part_bytes, "url": address }));
    }
    let view = json!({ "id": set.name, "status": "SUCCESS", "files": files }).to_string();
    write(&folder.join(format!("view/{scheme}/{}.json", set.name)), view.as_bytes())?;
    for (list, text) in
        [(List::Curl, curl), (List::Aria2, aria2), (List::Addresses, addresses), (List::Ids, ids)]
    {
        write(&list_path(folder, scheme, set, list), text.concat().as_bytes())?;
    }
    Ok(())
}

/// `sendfile`, and files are kept open: the server has to cost as little as possible, so that the
/// tools are measured.
fn nginx_conf(folder: &Path, data: &Path, ports: Ports) -> String {
    let mut servers = Vec::new();
    for scheme in [Scheme::Http, Scheme::Https] {
        let tls = if scheme == Scheme::Https { " ssl" } else { "" };
        let (api, store) = (ports.api(scheme), ports.store(scheme));
        let listen = |port| format!("listen 127.0.0.1:{port}{tls} backlog=4096 reuseport;");
        let ready = format!("location = /ready {{ return 200 \"{}\"; }}", folder.display());
        servers.push(format!(
            r#"
  server {{
    {listen_api} {ready}
    location = /2.11/exports/view {{
      default_type application/json; root "{folder}/view/{scheme}"; try_files /$arg_id.json =404;
    }}
    location = /2.11/exports/download {{ return 307 $scheme://127.0.0.1:{store}/blob/$arg_id?sig=$request_id; }}
  }}
  server {{
    {listen_store} {ready}
    location /blob/ {{ default_type application/json; root "{data}"; }}
  }}"#,
            listen_api = listen(api),
            listen_store = listen(store),
            folder = folder.display(),
            data = data.display(),
        ));
    }
    // As root, nginx would run its workers as `nobody`, who may not enter our folders.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let (folder, servers) = (folder.display(), servers.concat());
    format!(
        r#"{user}
daemon off;
worker_processes {WORKERS};
worker_rlimit_nofile 8192;
pid "{folder}/nginx.pid";
error_log "{folder}/error.log" warn;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; server_tokens off;
  sendfile on; sendfile_max_chunk 2m; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000; keepalive_timeout 300s;
  open_file_cache max=10000 inactive=600s; open_file_cache_valid 600s;
  client_body_temp_path "{folder}/tmp/body"; proxy_temp_path "{folder}/tmp/proxy";
  fastcgi_temp_path "{folder}/tmp/fastcgi"; uwsgi_temp_path "{folder}/tmp/uwsgi";
  scgi_temp_path "{folder}/tmp/scgi";
  ssl_certificate "{folder}/tls/leaf.pem"; ssl_certificate_key "{folder}/tls/leaf.key";
  ssl_protocols TLSv1.3; ssl_session_cache shared:sessions:10m; ssl_buffer_size 16k;
{servers}
}}
"#
    )
}
