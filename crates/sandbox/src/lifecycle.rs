//! The life of one sandbox: claim its data folder, start the servers, keep them until they are stopped, release the folder.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::claim::Claim;
use crate::embedded::Embedded;
use crate::fakes::Fakes;
use crate::kafka::Apache;
use crate::options::check_data_dir;
use crate::options::{External, Extras, KafkaChoice, KafkaKind, Options};
use crate::ports::Ports;
use crate::postgres::Postgres;
use crate::process::ProcessFiles;
use crate::redis::Redis;
use crate::supervisor::{Handle, Recipe, Supervisor};
use crate::unix_user::{self, UnixUser};

/// What a sandbox keeps in its data folder. Only these are ever removed: the folder may be the user's.
const ENTRIES: [&str; 8] = ["sandbox.json", "log", "postgres", "postgres.new", "redis", "kafka", "fake_psp", "run"];

/// The started servers; None for those that are not ours.
pub(crate) struct Servers {
    pub(crate) postgres: Option<Handle>,
    pub(crate) postgres_password: String,
    pub(crate) redis: Option<Handle>,
    pub(crate) kafka: Option<Handle>,
    pub(crate) kafka_kind: KafkaKind,
    pub(crate) fakes_url: String,
    /// Dropped with the rest, which tells the keeper that nobody needs the fakes any more.
    pub(crate) _in_use: oneshot::Sender<()>,
}

type Started = oneshot::Sender<Result<Servers>>;

/// The keeper's thread, what it started, and its end.
type Kept = (JoinHandle<()>, oneshot::Receiver<Result<Servers>>, oneshot::Receiver<()>);

/// Starts the servers and keeps them in a thread of their own until the handles are gone or used to stop them.
pub(crate) fn keep(options: Options) -> Result<Kept> {
    let (started, on_started) = oneshot::channel();
    let (ended, on_ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keeper = thread::Builder::new()
        .name("sandbox".to_owned())
        .spawn(move || {
            runtime.block_on(run(options, started));
            drop(ended);
        })
        .context("cannot start the sandbox's thread")?;
    Ok((keeper, on_started, on_ended))
}

async fn run(options: Options, mut started: Started) {
    let outcome = tokio::select! {
        outcome = start(options) => outcome,
        // Nobody waits any more. Dropping the half-started servers kills them.
        () = started.closed() => return,
    };
    match outcome {
        // The folder is dropped last, when the servers are down and the fakes have ended.
        Ok((_folder, _fakes, servers, supervisors, unused)) => {
            if started.send(Ok(servers)).is_ok() {
                supervisors.run().await;
                // Servers that are not ours need no supervisor, but their users need the fakes.
                let _ = unused.await;
            }
        }
        // If nobody waits for the error any more, nobody misses it.
        Err(error) => drop(started.send(Err(error))),
    }
}

async fn start(options: Options) -> Result<(DataFolder, Fakes, Servers, Supervisors, oneshot::Receiver<()>)> {
    let (folder, ports) = DataFolder::open(options)?;
    let fakes = Fakes::open(&folder.data_dir.join("fake_psp"), Some(ports.fakes)).await?;
    let (in_use, unused) = oneshot::channel();
    let (servers, supervisors) = folder.start(ports, fakes.url(), in_use).await?;
    Ok((folder, fakes, servers, supervisors, unused))
}

/// A claimed data folder. Dropping it gives it up, and removes the data if it was to be ephemeral.
struct DataFolder {
    data_dir: PathBuf,
    external: External,
    kafka: KafkaChoice,
    kafka_properties: Vec<(String, String)>,
    count_statements: bool,
    extras: Extras,
    user: Option<UnixUser>,
    /// What is removed at the end.
    at_end: Vec<PathBuf>,
    /// Given up only after the data has been removed.
    claim: Claim,
}

impl DataFolder {
    fn open(options: Options) -> Result<(DataFolder, Ports)> {
        let Options { data_dir, fresh, ephemeral, beside, kafka, kafka_properties, count_statements, external, extras } =
            options;
        check_data_dir(&data_dir)?;
        fs::create_dir_all(&data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
        let data_dir = data_dir.canonicalize()?;
        let user = UnixUser::for_servers()?;
        if external.postgres_url.is_none() || external.redis_url.is_none() {
            unix_user::check_access(user.as_ref(), &data_dir)?;
        }
        let mut at_end = Vec::new();
        if ephemeral {
            at_end.extend(entries(&data_dir));
            at_end.extend(beside.iter().map(|entry| data_dir.join(entry)));
        }
        let claim = Claim::take(&data_dir, &at_end)?;
        if fresh {
            for entry in entries(&data_dir).iter().filter(|entry| !entry.ends_with("run")) {
                remove(entry)?;
            }
        }
        let ports = Ports::choose(&data_dir.join("sandbox.json"))?;
        // The log of each life of a sandbox is its own.
        remove(&data_dir.join("log"))?;
        fs::create_dir_all(data_dir.join("log"))?;
        Ok((
            DataFolder { data_dir, external, kafka, kafka_properties, count_statements, extras, user, at_end, claim },
            ports,
        ))
    }

    async fn start(
        &self,
        ports: Ports,
        fakes_url: &str,
        in_use: oneshot::Sender<()>,
    ) -> Result<(Servers, Supervisors)> {
        let (postgres, redis, (kafka_kind, apache, embedded)) = tokio::try_join!(
            self.start_postgres(ports.postgres),
            self.start_redis(ports.redis),
            self.start_kafka(ports)
        )?;
        let (postgres, postgres_handle) = postgres.unzip();
        let (redis, redis_handle) = redis.unzip();
        let (apache, apache_handle) = apache.unzip();
        let (embedded, embedded_handle) = embedded.unzip();
        let postgres_password = match &postgres_handle {
            Some(handle) => Postgres::password(&handle.data_dir)?,
            None => String::new(),
        };
        let servers = Servers {
            postgres: postgres_handle,
            postgres_password,
            redis: redis_handle,
            kafka: apache_handle.or(embedded_handle),
            kafka_kind,
            fakes_url: fakes_url.to_owned(),
            _in_use: in_use,
        };
        Ok((servers, Supervisors { postgres, redis, apache, embedded }))
    }

    async fn start_postgres(&self, port: u16) -> Result<Option<Pair<Postgres>>> {
        if self.external.postgres_url.is_some() {
            return Ok(None);
        }
        let dir = self.data_dir.join("postgres");
        let more = self.extras.postgres_settings.clone();
        let recipe = Postgres::new(dir, port, self.user.clone(), self.count_statements, more)?;
        self.start_server(recipe).await.map(Some)
    }

    async fn start_redis(&self, port: u16) -> Result<Option<Pair<Redis>>> {
        if self.external.redis_url.is_some() {
            return Ok(None);
        }
        let more = self.extras.redis_arguments.clone();
        let recipe = Redis::new(self.data_dir.join("redis"), port, self.user.clone(), more)?;
        self.start_server(recipe).await.map(Some)
    }

    async fn start_kafka(&self, ports: Ports) -> Result<(KafkaKind, Option<Pair<Apache>>, Option<Pair<Embedded>>)> {
        if self.external.kafka_brokers.is_some() {
            return Ok((KafkaKind::External, None, None));
        }
        let choice = self.kafka;
        let data_dir = self.data_dir.clone();
        let apache = spawn_blocking(move || match choice {
            KafkaChoice::Embedded => Ok(false),
            KafkaChoice::Apache => Ok(true),
            KafkaChoice::Auto => match Apache::check(&data_dir) {
                Ok(()) => Ok(true),
                Err(error) => {
                    tracing::warn!(
                        "Using the embedded broker, which forgets and drops, instead of Apache Kafka: {error:#}"
                    );
                    anyhow::Ok(false)
                }
            },
        })
        .await??;
        let dir = self.data_dir.join("kafka");
        if apache {
            let recipe = Apache::new(&self.data_dir, dir, ports, &self.kafka_properties, &self.extras)?;
            Ok((KafkaKind::Apache, Some(self.start_server(recipe).await?), None))
        } else {
            Ok((KafkaKind::Embedded, None, Some(self.start_server(Embedded::new(dir)).await?)))
        }
    }

    async fn start_server<R: Recipe>(&self, recipe: R) -> Result<Pair<R>> {
        let name = R::SERVER.name();
        let log_file = self.data_dir.join("log").join(format!("{name}.log"));
        Supervisor::start(recipe, ProcessFiles { pid_file: self.claim.pid_file(name), log_file }).await
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        if !self.at_end.is_empty() {
            remove_in_background(&self.data_dir, &self.at_end);
            // Nothing of ours is left in it but the lock; what is not ours stays.
            let _ = fs::remove_file(self.data_dir.join("lock"));
            let _ = fs::remove_dir(&self.data_dir);
        }
    }
}

type Pair<R> = (Supervisor<R>, Handle);

struct Supervisors {
    postgres: Option<Supervisor<Postgres>>,
    redis: Option<Supervisor<Redis>>,
    apache: Option<Supervisor<Apache>>,
    embedded: Option<Supervisor<Embedded>>,
}

impl Supervisors {
    /// Returns when all servers have been stopped, or killed because nobody gives orders any more.
    async fn run(self) {
        tokio::join!(run_one(self.postgres), run_one(self.redis), run_one(self.apache), run_one(self.embedded));
    }
}

async fn run_one<R: Recipe>(supervisor: Option<Supervisor<R>>) {
    if let Some(supervisor) = supervisor {
        supervisor.run().await;
    }
}

fn entries(data_dir: &Path) -> Vec<PathBuf> {
    ENTRIES.iter().map(|entry| data_dir.join(entry)).collect()
}

/// Removing a hundred thousand small files takes minutes on some disks. Nobody waits for that: `entries` get another name beside
/// `data_dir`, and a process that outlives this one removes them.
fn remove_in_background(data_dir: &Path, entries: &[PathBuf]) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut doomed = data_dir.as_os_str().to_owned();
    doomed.push(format!(".removed-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    // Where nothing can be made beside it, everything is removed here.
    let is_made = fs::create_dir(&doomed).is_ok();
    for (number, entry) in entries.iter().enumerate() {
        let moved = is_made && fs::rename(entry, Path::new(&doomed).join(number.to_string())).is_ok();
        if !moved && let Err(error) = remove(entry) {
            tracing::warn!("Leaving {} behind: {error:#}", entry.display());
        }
    }
    if is_made {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", r#"rm -rf -- "$1" &"#, "sh"]).arg(&doomed).process_group(0);
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !shell.status().is_ok_and(|status| status.success())
            && let Err(error) = remove(Path::new(&doomed))
        {
            tracing::warn!("Leaving {} behind: {error:#}", doomed.display());
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
