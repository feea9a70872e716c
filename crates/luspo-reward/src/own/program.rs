//! A program that judges: a process that reads a line and answers with one, for as long as it can be relied on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::failure::{Failure, FailureKind, quoted};

/// How a process is started and what it may do.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// For one answer.
    pub timeout: Duration,
    /// Bytes of address space.
    pub memory: Option<u64>,
    /// Bytes of a line.
    pub output: usize,
}

/// A running process. It is killed, with all of its process group, when this is dropped; on Linux it is killed too when
/// luspo ends in any other way.
pub(super) struct Process {
    child: Child,
    /// None once there are no more.
    questions: Option<SyncSender<String>>,
    replies: Receiver<Said>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_ended: Receiver<()>,
    limits: Limits,
    /// Its exit status, once it is known to have ended.
    status: Option<ExitStatus>,
    /// Whether it has answered a question.
    pub used: bool,
}

/// What came of one exchange.
enum Said {
    /// A line, and whether something came right behind it that was not asked for.
    Line(Vec<u8>, bool),
    TooLong,
    Ended,
}

impl Process {
    /// Starts the program `command`, with arguments behind its name.
    pub fn start(command: &[String], limits: &Limits) -> Result<Self, Failure> {
        let (program, arguments) = command.split_first().map_or(("", command), |(first, rest)| (first.as_str(), rest));
        let mut started = Command::new(program);
        started.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        confine(&mut started, limits);
        let cannot = |what: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Start, format!("the program `{program}` cannot be started: {what}"))
        };
        let mut child = spawn(started).map_err(|error| cannot(&error))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(cannot(&"it has no pipes"));
        };
        let (questions, asked) = sync_channel(1);
        let (tell, replies) = sync_channel(1);
        let output = limits.output;
        // The threads end with the process: its pipes close.
        thread::spawn(move || exchange(stdin, stdout, output, &asked, &tell));
        let tail = Arc::new(Mutex::new(Vec::new()));
        let (end, stderr_ended) = sync_channel(1);
        let shared = tail.clone();
        thread::spawn(move || {
            keep_tail(stderr, &shared);
            _ = end.send(());
        });
        let limits = limits.clone();
        let questions = Some(questions);
        Ok(Self { child, questions, replies, stderr: tail, stderr_ended, limits, status: None, used: false })
    }

    /// What the program answers to a question of one line, and whether more came right behind it.
    ///
    /// After an error the process is not to be asked again.
    pub fn ask(&mut self, question: String) -> Result<(String, bool), Failure> {
        // The thread takes one question at a time, and the one before was answered: this does not wait.
        let said = match self.questions.as_ref().map(|questions| questions.send(question)) {
            Some(Ok(())) => self.replies.recv_timeout(self.limits.timeout),
            _ => Ok(Said::Ended),
        };
        let failure = match said {
            Ok(Said::Line(line, more)) => {
                self.used = true;
                return match String::from_utf8(line) {
                    Ok(line) => Ok((line, more)),
                    Err(_) => Err(Failure::new(FailureKind::Garbage, "what it said is not UTF-8 text")),
                };
            }
            Ok(Said::TooLong) => {
                let limit = self.limits.output;
                Failure::new(FailureKind::Flood, format!("it said more than {limit} bytes in one line (output_limit)"))
            }
            Ok(Said::Ended) | Err(RecvTimeoutError::Disconnected) => {
                let how = self.how_it_ended();
                Failure::new(FailureKind::Exited, format!("the program ended without an answer ({how})"))
            }
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.limits.timeout.as_secs_f64();
                Failure::new(FailureKind::Timeout, format!("it took more than {seconds} s (timeout) and was killed"))
            }
        };
        Err(self.with_stderr(failure))
    }

    /// Closes the program's input, upon which a good one ends by itself.
    pub fn no_more_questions(&mut self) {
        self.questions = None;
    }

    /// Waits until the program has ended, or `longest` is over.
    pub fn wait(&mut self, longest: Duration) {
        poll(longest, || has_ended(&mut self.child).then_some(()));
    }

    /// The exit status, of a process whose output has ended.
    fn how_it_ended(&mut self) -> String {
        self.wait(Duration::from_millis(500));
        let goes_on = !has_ended(&mut self.child);
        match (goes_on, self.kill()) {
            (true, _) => "it closed its output and went on".into(),
            (false, Some(status)) => status.to_string(),
            (false, None) => "its status is not known".into(),
        }
    }

    /// Ends the process and adds the last of what it wrote to its standard error.
    fn with_stderr(&mut self, mut failure: Failure) -> Failure {
        self.kill();
        // Bounded, since a process that left the group may hold the pipe open.
        _ = self.stderr_ended.recv_timeout(Duration::from_millis(500));
        let tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let said = quoted(&String::from_utf8_lossy(&tail));
        if !said.is_empty() {
            failure.message += &format!("; its standard error ends with {said:?}");
        }
        failure
    }

    /// Ends the process and all of its group, and returns its exit status.
    fn kill(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            kill_group(&mut self.child);
            self.status = poll(Duration::from_secs(2), || self.child.try_wait().ok().flatten());
            if self.status.is_none() {
                log::warn!("the process {} does not end, although it was killed", self.child.id());
            }
        }
        self.status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a program that does not survive luspo.
///
/// Linux kills it together with the thread that started it, and not with the whole of luspo: so one thread starts all, and
/// goes on for as long as luspo does.
#[cfg(target_os = "linux")]
fn spawn(mut command: Command) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;

    type Job = (Command, SyncSender<io::Result<Child>>);
    static STARTER: LazyLock<SyncSender<Job>> = LazyLock::new(|| {
        let (starter, jobs) = sync_channel::<Job>(0);
        thread::spawn(move || {
            for (mut command, reply) in jobs {
                _ = reply.send(command.spawn());
            }
        });
        starter
    });
    let luspo = std::process::id();
    let die_with_luspo = move || {
        // SAFETY: system calls on numbers.
        let failed = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0;
        // Where luspo has ended meanwhile, there is nobody to wait for.
        match failed || unsafe { libc::getppid() } as u32 != luspo {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    };
    // SAFETY: between fork and exec it makes two system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(die_with_luspo) };
    let (reply, child) = sync_channel(1);
    let gone = || io::Error::other("the thread that starts programs has ended");
    STARTER.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

#[cfg(not(target_os = "linux"))]
fn spawn(mut command: Command) -> io::Result<Child> {
    command.spawn()
}

/// Puts the process into a group of its own, and sets its limits before its program begins.
#[cfg(unix)]
fn confine(command: &mut Command, limits: &Limits) {
    use std::os::unix::process::CommandExt;

    command.process_group(0);
    #[cfg(target_os = "linux")]
    if let Some(bytes) = limits.memory {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: a system call that reads one structure, which outlives it.
        let set = move || match unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: between fork and exec it makes one system call, allocates nothing and takes no lock.
        unsafe { command.pre_exec(set) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = limits.memory; // no such limit; the configuration has refused it
}

#[cfg(not(unix))]
fn confine(_command: &mut Command, limits: &Limits) {
    let _ = limits.memory; // no such limit; the configuration has refused it
}

/// Kills the process and all of its group. It has not been waited for, or its number may be another's by now.
#[cfg(unix)]
fn kill_group(child: &mut Child) {
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: a system call on numbers.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

#[cfg(not(unix))]
fn kill_group(child: &mut Child) {
    _ = child.kill();
}

/// Whether the process has ended, without forgetting it: its number, which is its group's, stays its own.
#[cfg(unix)]
fn has_ended(child: &mut Child) -> bool {
    // SAFETY: the structure is plain numbers, for which zeros are values, and the system call writes to it alone.
    unsafe {
        let mut found: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_PID, child.id() as libc::id_t, &mut found, flags) == 0 && found.si_pid() != 0
    }
}

#[cfg(not(unix))]
fn has_ended(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(Some(_)))
}

/// Asks again and again, until there is an answer or the time is over.
fn poll<T>(longest: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let (started, mut pause) = (Instant::now(), Duration::from_micros(200));
    loop {
        let answer = ask();
        if answer.is_some() || started.elapsed() >= longest {
            return answer;
        }
        thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(20));
    }
}

/// Hands questions to the program and its lines back, one by one.
fn exchange(
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    longest: usize,
    asked: &Receiver<String>,
    tell: &SyncSender<Said>,
) {
    let mut stdout = BufReader::new(stdout);
    for question in asked {
        let written = writeln!(stdin, "{question}").and_then(|()| stdin.flush());
        let said = match written.and_then(|()| line(&mut stdout, longest)) {
            Ok(said) => said,
            Err(_) => Said::Ended,
        };
        if tell.send(said).is_err() {
            return;
        }
    }
}

fn line(stdout: &mut BufReader<ChildStdout>, longest: usize) -> io::Result<Said> {
    let mut line = Vec::new();
    stdout.by_ref().take(longest as u64 + 1).read_until(b'\n', &mut line)?;
    Ok(match line.len() {
        0 => Said::Ended,
        length if length > longest => Said::TooLong,
        _ => Said::Line(line, !stdout.buffer().is_empty()),
    })
}

/// Reads to the end and keeps the last few kilobytes.
fn keep_tail(mut stderr: ChildStderr, tail: &Mutex<Vec<u8>>) {
    const KEPT: usize = 4096;
    let mut part = [0; KEPT];
    while let Ok(read @ 1..) = stderr.read(&mut part) {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&part[..read]);
        let surplus = tail.len().saturating_sub(KEPT);
        tail.drain(..surplus);
    }
}
