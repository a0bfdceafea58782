//! Our data plane beside Envoy, HAProxy and nginx: the same load on the same machine in the same run, in turns.
//!
//! `--bench peers -- pair hop` runs these works alone, `--markdown FILE` writes what was seen to a file as well (a relative
//! name is one in the repository). What is not installed is told and left out.
//!
//! What is compared is the processor time of the proxies for one unit of work, which the speed of the load generator and
//! of the backend has no part in. Every proxy has one thread that works, and logs nothing of what it does.

mod backends;
mod config;
mod installed;
mod isthmus;
mod load;
mod peer;
mod processor;
mod proxies;
mod rounds;
mod stage;
mod table;
mod trust;
mod works;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use isthmus_tests::bench::{Report, run};

use installed::Programs;
use table::Tables;
use works::Work;

/// The option that names the file for the tables.
const MARKDOWN: &str = "--markdown";

fn main() -> ExitCode {
    run("peers", Box::pin(peers()))
}

/// What the command line asks for.
struct Args {
    works: Vec<Work>,
    markdown: Option<String>,
}

impl Args {
    fn read() -> io::Result<Self> {
        let mut args = Self { works: Vec::new(), markdown: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == MARKDOWN {
                let file = words.next().ok_or_else(|| io::Error::other(format!("{MARKDOWN} needs a file's name")))?;
                args.markdown = Some(file);
            } else if !word.starts_with('-') {
                args.works.push(Work::named(&word)?);
            }
        }
        if args.works.is_empty() {
            args.works = Work::ALL.to_vec();
        }
        Ok(args)
    }
}

async fn peers() -> io::Result<Report> {
    let args = Args::read()?;
    let programs = Programs::find();
    println!("{programs}");
    let (mut tables, mut report) = (Tables::default(), Report::default());
    for work in args.works {
        if let Some(why) = work.left_out(&programs) {
            println!("  {why}\n");
            continue;
        }
        work.measure(&programs, &mut tables, &mut report).await?;
    }
    if let Some(file) = args.markdown {
        // Cargo runs a bench in its package's directory.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let list: String = programs.to_string().lines().map(|line| format!("- {}\n", line.trim())).collect();
        let text = format!("{list}\n{}\n{}", tables.markdown(), report.markdown());
        std::fs::write(root.join(file), text)?;
    }
    Ok(report)
}
