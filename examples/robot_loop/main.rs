//! A control loop that runs at a fixed rate whatever the network does: actions wait in a queue, a thread of its own asks for
//! the next chunk before the queue is empty, and each chunk goes on where the one before is (real-time chunking).

mod control;
mod network;
mod robot;

use std::{error::Error, process::ExitCode, time::Duration};

use network::{BadNetwork, Weather};

const USAGE: &str = "usage: robot_loop [URL] [SECONDS], or robot_loop network [SECONDS]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The server of the bad network is this program too.
    if arguments.first().is_some_and(|word| word == "serve") {
        return evo1_cli::main::<evo1::Published>();
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let seconds = |text: &str| text.parse().map(Duration::from_secs).map_err(|_| USAGE);
    let (what, time) = match arguments {
        [] => (None, Duration::from_secs(15)),
        [one] => match one.parse() {
            Ok(time) => (None, Duration::from_secs(time)),
            Err(_) => (Some(one.as_str()), Duration::from_secs(15)),
        },
        [what, time] => (Some(what.as_str()), seconds(time)?),
        _ => return Err(USAGE.into()),
    };
    match what {
        Some("network") => {
            let network = BadNetwork::start(Weather::default())?;
            println!("{}", network.url());
            std::thread::sleep(time);
            Ok(())
        }
        Some(url) => {
            println!("{}", control::run(url, time)?);
            Ok(())
        }
        None => {
            let network = BadNetwork::start(Weather::default())?;
            println!("{}", control::run(&network.url(), time)?);
            println!(
                "the network cut {} connections, the server was started again {} times",
                network.cuts(),
                network.restarts()
            );
            Ok(())
        }
    }
}
