//! What is asked of a hub's server, and what its answers mean.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, Uri};

use super::cache::{CachedModel, Settings, is_commit};
use super::{Download, HubName};

/// How often a download is told of.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Renamed models lead to their new name.
const MOST_REDIRECTS: usize = 5;

/// Why a model could not be fetched.
pub(super) struct Failure {
    /// What went wrong and what to do.
    pub problem: String,
    /// Whether the server was out of reach, so that what the cache has may do.
    pub unreachable: bool,
}

impl Failure {
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), unreachable: false }
    }
}

/// A commit and its files.
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What a server says of a file before it sends it.
struct About {
    /// Names the content: its SHA-256 for large files, that of git for others.
    hash: String,
    bytes: u64,
}

/// One model at one server.
pub(super) struct Server<'a> {
    name: &'a HubName,
    settings: &'a Settings,
    cached: &'a CachedModel,
    agent: Agent,
}

impl<'a> Server<'a> {
    pub fn new(name: &'a HubName, settings: &'a Settings, cached: &'a CachedModel) -> Self {
        let timeout = Some(settings.timeout);
        let config = Agent::config_builder()
            .user_agent(concat!("luspo/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout);
        Self { name, settings, cached, agent: config.build().into() }
    }

    /// The newest commit of the revision, and the files of the repository.
    pub fn listing(&self) -> Result<Listing, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let (endpoint, repository) = (&self.settings.endpoint, &self.name.repository);
        let url = format!("{endpoint}/api/models/{repository}/revision/{}", escaped(self.name.revision()));
        let text = self.get(&url, 0).and_then(|mut answer| answer.body_mut().read_to_string());
        let text = text.map_err(|error| self.refused(&error, None))?;
        match serde_json::from_str(&text) {
            Ok(Answer { sha, siblings }) if is_commit(&sha) => {
                Ok(Listing { commit: sha, files: siblings.into_iter().map(|sibling| sibling.rfilename).collect() })
            }
            _ => Err(Failure::new(format!("{endpoint} does not answer as a hub does; check HF_ENDPOINT"))),
        }
    }

    /// Sees to it that the cache has the file of a commit, whole.
    pub fn fetch(&self, commit: &str, file: &str, tell: &mut dyn FnMut(&Download)) -> Result<(), Failure> {
        if self.cached.snapshot(commit).join(file).exists() {
            return Ok(());
        }
        let (endpoint, repository) = (&self.settings.endpoint, &self.name.repository);
        let url = format!("{endpoint}/{repository}/resolve/{commit}/{}", escaped(file));
        let about = self.about(&url, file)?;
        let kept = |error| Failure::new(format!("{file} cannot be kept in {}: {error}", self.settings.cache.display()));
        let _lock = self.cached.lock(&about.hash).map_err(kept)?;
        let blob = self.cached.blob(&about.hash);
        if length(&blob) != about.bytes || !blob.exists() {
            self.download(&url, file, &about, &blob, tell)?;
        }
        self.cached.link(&about.hash, commit, file).map_err(kept)
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    /// Hash and size of a file, of which the hub itself knows and not the store that it leads to.
    fn about(&self, url: &str, file: &str) -> Result<About, Failure> {
        let strange = || {
            let endpoint = &self.settings.endpoint;
            Failure::new(format!("{endpoint} does not say hash and size of `{file}`; check HF_ENDPOINT"))
        };
        let mut url = url.to_string();
        for _ in 0..MOST_REDIRECTS {
            let mut request = self.agent.head(&url);
            if let Some(token) = &self.settings.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let request = request.config().max_redirects(0).build();
            let answer = request.call().map_err(|error| self.refused(&error, Some(file)))?;
            let header = |name: &str| answer.headers().get(name)?.to_str().ok();
            let moved = answer.status().is_redirection().then(|| header("location")).flatten();
            if let Some(place) = moved.filter(|place| place.starts_with('/') && !place.starts_with("//")) {
                let mut parts = url.parse::<Uri>().map_err(|_| strange())?.into_parts();
                parts.path_and_query = Some(place.parse().map_err(|_| strange())?);
                url = Uri::from_parts(parts).map_err(|_| strange())?.to_string();
                continue;
            }
            let hash = header("x-linked-etag").or(header("etag")).ok_or_else(strange)?;
            let hash = hash.trim_start_matches("W/").trim_matches('"').to_string();
            let bytes = header("x-linked-size").or(header("content-length")).and_then(|size| size.parse().ok());
            // The hash becomes a file's name.
            let sound = !hash.is_empty() && hash.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            return match bytes {
                Some(bytes) if sound => Ok(About { hash, bytes }),
                _ => Err(strange()),
            };
        }
        Err(strange())
    }

    /// Fetches a content, from where an earlier download of it broke off.
    fn download(
        &self,
        url: &str,
        file: &str,
        about: &About,
        blob: &Path,
        tell: &mut dyn FnMut(&Download),
    ) -> Result<(), Failure> {
        let total = about.bytes;
        let kept = |error| Failure::new(format!("{file} cannot be kept in {}: {error}", self.settings.cache.display()));
        let begun = blob.with_file_name(format!("{}.incomplete", about.hash));
        begun.parent().map_or(Ok(()), fs::create_dir_all).map_err(kept)?;
        let mut download = Download { name: self.name.clone(), file: file.into(), done: 0, total };
        tell(&download);

        let from = Some(length(&begun)).filter(|bytes| *bytes < total).unwrap_or(0);
        let mut out = OpenOptions::new().create(true).append(true).open(&begun).map_err(kept)?;
        if total > 0 {
            let answer = self.get(url, from).map_err(|error| self.refused(&error, Some(file)))?;
            let goes_on = answer.status() == StatusCode::PARTIAL_CONTENT;
            download.done = if goes_on { from } else { 0 };
            out.set_len(download.done).map_err(kept)?;
            let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
            let (mut piece, mut told) = (vec![0; 1 << 20], Instant::now());
            loop {
                let read = body.read(&mut piece).map_err(|error| self.broken_off(file, &download, &error))?;
                if read == 0 {
                    break;
                }
                out.write_all(&piece[..read]).map_err(kept)?;
                download.done += read as u64;
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    tell(&download);
                }
            }
        }
        if download.done < total {
            return Err(self.broken_off(file, &download, &io::ErrorKind::UnexpectedEof.into()));
        }
        out.sync_all().map_err(kept)?;
        drop(out);
        if download.done > total || !has_hash(&begun, &about.hash).map_err(kept)? {
            fs::remove_file(&begun).map_err(kept)?;
            return Err(Failure::new(format!("{file} is not what {} announced; try again", self.settings.endpoint)));
        }
        fs::rename(&begun, blob).map_err(kept)
    }

    fn broken_off(&self, file: &str, Download { done, total, .. }: &Download, error: &io::Error) -> Failure {
        Failure::new(format!(
            "{file} broke off after {done} of {total} bytes ({error}); run the same command again, and it goes on from \
             there"
        ))
    }

    /// What an error means to who named the model; `file` is what was asked for, or the model itself.
    fn refused(&self, error: &ureq::Error, file: Option<&str>) -> Failure {
        let endpoint = &self.settings.endpoint;
        let what = file.map_or("the model".into(), |file| format!("`{file}`"));
        let token = match self.settings.token {
            Some(_) => "see to it that the token in use (HF_TOKEN, or that of `hf auth login`) may read it",
            None => "set HF_TOKEN to a token that may read it",
        };
        let (problem, unreachable) = match error {
            ureq::Error::StatusCode(401) => {
                let problem = "there is no such model, or it is private or gated; check the name, and";
                (format!("{endpoint} refuses {what} (401): {problem} {token}"), false)
            }
            ureq::Error::StatusCode(403) => {
                let problem = "accept the model's conditions on its page there, and";
                (format!("{endpoint} refuses {what} (403): {problem} {token}"), false)
            }
            ureq::Error::StatusCode(404) => {
                let revision = self.name.revision();
                let problem = "and there is no folder of that name here; check both";
                (format!("{endpoint} does not have {what} (404, revision `{revision}`), {problem}"), false)
            }
            ureq::Error::StatusCode(code) => {
                let problem = format!("{endpoint} answers with status {code} for {what}; try again later");
                (problem, *code >= 500)
            }
            ureq::Error::Timeout(_) => {
                let seconds = self.settings.timeout.as_secs_f64();
                let problem = "try again, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds";
                (format!("{endpoint} said nothing of {what} for {seconds} s; {problem}"), true)
            }
            error => {
                let problem = "check the connection and HF_ENDPOINT";
                (format!("{what} cannot be had from {endpoint}: {error}; {problem}"), true)
            }
        };
        Failure { problem, unreachable }
    }
}

/// Bytes of a file; 0 where there is none.
fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

/// Whether a file has this SHA-256, where the hash is one.
fn has_hash(file: &Path, hash: &str) -> io::Result<bool> {
    if hash.len() != 64 {
        return Ok(true);
    }
    let mut sha256 = Sha256::new();
    io::copy(&mut File::open(file)?, &mut sha256)?;
    let found: String = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(found.eq_ignore_ascii_case(hash))
}

/// One part of a URL's path.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
