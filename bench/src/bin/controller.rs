//! `cargo run --release -p bench --bin controller`: what the controller does on one core.

use std::path::PathBuf;
use std::time::Duration;

use bench::controller::{Dir, Figure, http, memory, placements, rest};
use clap::Parser;
use sfu_core::reactor::thread::{allowed_cpus, pin};

/// Durable REST creations per second (through the engine, and through real HTTP), placements per second, memory.
#[derive(Parser)]
struct Args {
    /// Print one JSON array of {name, value, unit, range}.
    #[arg(long)]
    json: bool,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each REST round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where the data directory is made: this disk is measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// CPU to run on; clients of the HTTP measurement run on another one.
    #[arg(long)]
    cpu: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cpus = allowed_cpus()?;
    let cpu = args.cpu.or(cpus.last().copied()).unwrap_or(0);
    let other = cpus.iter().copied().find(|other| *other != cpu).unwrap_or(cpu);
    let time = Duration::from_secs(args.seconds);
    // Memory first: what later rounds free is not given back.
    pin(cpu)?;
    let (session, connection) = memory::bytes()?;
    let mut figures = vec![
        Figure::of("memory of a session", "bytes", vec![session]),
        Figure::of("memory of a pending connection", "bytes", vec![connection]),
    ];
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..args.rounds {
        pin(cpu)?;
        rounds[0].push(placements::per_second()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dir = Dir::new(&args.dir, &format!("engine-{round}"))?;
        rounds[1].push(runtime.block_on(rest::pairs_per_second(&dir, time))?);
        drop(runtime);
        let dir = Dir::new(&args.dir, &format!("http-{round}"))?;
        rounds[2].push(http::pairs_per_second(&dir, time, cpu, other)?);
    }
    let [placed, engine, http] = rounds;
    figures.push(Figure::of("placements, 1000 nodes, 100000 sessions", "per second", placed));
    figures.push(Figure::of("durable session + connection, engine and store", "pairs per second", engine));
    figures.push(Figure::of("durable session + connection, real HTTP", "pairs per second", http));
    if args.json {
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    println!("CPU {cpu} (HTTP clients on {other}), data below {}", args.dir.display());
    for figure in figures {
        let (least, most) = figure.range;
        println!("{:48} {:>10.0} {} ({least:.0} to {most:.0})", figure.name, figure.value, figure.unit);
    }
    Ok(())
}
