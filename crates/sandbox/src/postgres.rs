//! A private PostgreSQL as durable as production: fsync, synchronous commits, full page writes and checksums are on.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::distr::Alphanumeric;

use crate::options::Server;
use crate::process::{ProcessFiles, run, wait_gone, working_in};
use crate::programs;
use crate::supervisor::Recipe;
use crate::unix_user::{self, UnixUser};

/// The role and the database that the services use. The role owns the cluster, so that tests can create databases.
pub(crate) const NAME: &str = "stampede";

/// Nobody types it.
const PASSWORD_CHARACTERS: usize = 32;

/// Given on the command line, so that an older data folder follows when they change.
const SETTINGS: [(&str, &str); 12] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    // All services of a site, and several sites of a test run on one server.
    ("max_connections", "200"),
    ("shared_buffers", "256MB"),
    ("wal_compression", "on"),
    // A rush must not be measured against checkpoints that only a small limit forces.
    ("max_wal_size", "2GB"),
    ("track_io_timing", "off"),
    // In the data folder: in /dev/shm a killed server would leave its segments for ever.
    ("dynamic_shared_memory_type", "mmap"),
    // Standard error, which is the log file.
    ("logging_collector", "off"),
];

/// Its folder holds `data` and `password`; both appear at once, when the cluster is complete.
pub(crate) struct Postgres {
    dir: PathBuf,
    port: u16,
    user: Option<UnixUser>,
    programs_dir: PathBuf,
    count_statements: bool,
    more_settings: Vec<(String, String)>,
}

impl Postgres {
    pub(crate) fn new(
        dir: PathBuf,
        port: u16,
        user: Option<UnixUser>,
        count_statements: bool,
        more_settings: Vec<(String, String)>,
    ) -> Result<Postgres> {
        let programs_dir = programs::postgres_dir()?;
        // Beside the programs: /usr/lib/postgresql/15/lib. Elsewhere PostgreSQL would not start with it.
        let module = programs_dir.with_file_name("lib").join("pg_stat_statements.so");
        let count_statements = count_statements && module.is_file();
        Ok(Postgres { dir, port, user, programs_dir, count_statements, more_settings })
    }

    pub(crate) fn password(dir: &Path) -> Result<String> {
        let path = dir.join("password");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

impl Recipe for Postgres {
    const SERVER: Server = Server::Postgres;
    /// A fast shutdown: disconnects clients, writes a checkpoint.
    const STOP_SIGNAL: Signal = Signal::SIGINT;

    async fn prepare(&mut self, files: &ProcessFiles) -> Result<()> {
        let data = self.dir.join("data");
        if self.dir.exists() {
            unix_user::give_folder(self.user.as_ref(), &self.dir)?;
            // Backends that outlive a postmaster which somebody else killed keep the next one from starting.
            let orphans = working_in(&data, "postgres");
            wait_gone(&orphans.iter().flat_map(|orphan| orphan.kill_tree()).collect::<Vec<_>>())?;
            return forget_owner(&data);
        }
        let cluster = NewCluster {
            dir: self.dir.with_extension("new"),
            user: self.user.clone(),
            programs_dir: self.programs_dir.clone(),
            files,
        };
        cluster.make().await?;
        fs::rename(&cluster.dir, &self.dir).context("cannot move the new cluster into place")
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.programs_dir.join("postgres"));
        command.arg("-D").arg(self.dir.join("data")).arg("-c").arg(format!("port={}", self.port));
        let more = self.more_settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in SETTINGS.into_iter().chain(more) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        if self.count_statements {
            command.args(["-c", "shared_preload_libraries=pg_stat_statements"]);
        }
        command.current_dir(&self.dir);
        unix_user::run_as(self.user.as_ref(), &mut command);
        Ok(command)
    }

    /// The postmaster notes its state in `postmaster.pid`: the pid in the first line, `ready` in the eighth.
    async fn is_ready(&mut self, pid: u32) -> bool {
        let note = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = note.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.clone()
    }
}

/// Nobody serves `data`, which the caller has made sure of; the note of who did must not say otherwise. PostgreSQL
/// believes it for as long as the process is in the table, if only as a zombie that its parent has not reaped yet.
fn forget_owner(data: &Path) -> Result<()> {
    let note = data.join("postmaster.pid");
    match fs::remove_file(&note) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", note.display()))
        }
        _ => Ok(()),
    }
}

/// A cluster in the making. Whatever an interrupted attempt left is thrown away.
struct NewCluster<'a> {
    dir: PathBuf,
    user: Option<UnixUser>,
    programs_dir: PathBuf,
    files: &'a ProcessFiles,
}

impl NewCluster<'_> {
    async fn make(&self) -> Result<()> {
        let password: String =
            rand::rng().sample_iter(Alphanumeric).take(PASSWORD_CHARACTERS).map(char::from).collect();
        // C.UTF-8 is built into newer C libraries only.
        if let Err(first) = self.init("C.UTF-8", &password).await
            && let Err(error) = self.init("C", &password).await
        {
            bail!("{error:#} (with the locale C.UTF-8: {first:#})");
        }
        self.create_database().await
    }

    async fn init(&self, locale: &str, password: &str) -> Result<()> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))?;
        }
        unix_user::give_folder(self.user.as_ref(), &self.dir)?;
        let password_file = self.dir.join("password");
        fs::write(&password_file, password)?;
        restrict(&self.dir)?;
        unix_user::give_folder(self.user.as_ref(), &self.dir)?;
        let mut initdb = self.program("initdb");
        initdb
            .arg("-D")
            .arg(self.dir.join("data"))
            .arg("--pwfile")
            .arg(password_file)
            .args(["-U", NAME, "--auth=scram-sha-256", "-E", "UTF8", "--data-checksums"])
            .arg(format!("--locale={locale}"));
        run(initdb, Stdio::null(), self.files).await
    }

    /// In single-user mode, which needs neither a port nor a client.
    async fn create_database(&self) -> Result<()> {
        let script = self.dir.join("create.sql");
        let mut input = File::options().create(true).truncate(true).read(true).write(true).open(&script)?;
        writeln!(input, "CREATE DATABASE {NAME};")?;
        input.rewind()?;
        let mut single = self.program("postgres");
        single.arg("--single").arg("-D").arg(self.dir.join("data")).arg("postgres");
        run(single, input.into(), self.files).await?;
        Ok(fs::remove_file(script)?)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs_dir.join(name));
        command.current_dir(&self.dir);
        unix_user::run_as(self.user.as_ref(), &mut command);
        command
    }
}

/// PostgreSQL insists on 0700 for its data; the password beside it deserves no less.
fn restrict(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?)
}
