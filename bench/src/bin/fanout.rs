//! `cargo run --release -p bench --bin fanout`: CPU time per forwarded packet, the node against two baselines.

use std::time::Duration;

use bench::fanout::egress::{Egress, Kind};
use bench::fanout::measure::{BATCHES, Row, Sample, clock_cost, sample, warm_up};
use bench::fanout::naive::Naive;
use bench::fanout::node::Node;
use bench::fanout::ring_runtime::RingRuntime;
use bench::fanout::{FAN_OUT, Shape, Variant};
use clap::Parser;
use sfu_core::reactor::{ReactorChoice, SendPath};

/// The allocator of `weir`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Forwards 1 to 6 on one core with each variant in turns and prints CPU nanoseconds per packet out.
#[derive(Parser)]
struct Args {
    /// Print one JSON array of rows {variant, batch, ns_per_packet_out, segments_per_message}.
    #[arg(long)]
    json: bool,
    /// Where packets go.
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    egress: Kind,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 21, value_parser = at_least_one)]
    rounds: usize,
    /// Rooms of seven; the peers have seven connections each.
    #[arg(long, default_value_t = 20, value_parser = at_least_one)]
    rooms: usize,
    /// CPU to run on; the last allowed one by default.
    #[arg(long)]
    cpu: Option<usize>,
    /// Only these variants; mmsg-sockets and io_uring-sockets, the node without frames, are run only if they are named.
    #[arg(long, value_delimiter = ',', value_parser = VARIANTS)]
    only: Vec<String>,
}

const VARIANTS: [&str; 6] = ["naive", "tokio-uring", "mmsg", "io_uring", "mmsg-sockets", "io_uring-sockets"];

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "not a number above 0".to_owned())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let shape = Shape { rooms: args.rooms };
    let cpu = args.cpu.or(sfu_core::reactor::thread::allowed_cpus()?.last().copied()).unwrap_or(0);
    sfu_core::reactor::thread::pin(cpu)?;
    let egress = Egress::open(args.egress, shape)?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut variants: Vec<Box<dyn Variant>> = Vec::new();
    if wanted("naive") {
        variants.push(Box::new(Naive::new(&egress)?));
    }
    if wanted("tokio-uring") {
        match RingRuntime::new(&egress) {
            Ok(variant) => variants.push(Box::new(variant)),
            Err(error) => eprintln!("tokio-uring: left out: {error:#}"),
        }
    }
    for choice in [ReactorChoice::Mmsg, ReactorChoice::IoUring] {
        let without = args.only.contains(&format!("{choice}-sockets"));
        for path in
            [wanted(&choice.to_string()).then_some(SendPath::Auto), without.then_some(SendPath::Sockets)]
                .into_iter()
                .flatten()
        {
            match Node::new(choice, path, &egress) {
                Ok(variant) => variants.push(Box::new(variant)),
                Err(error) => eprintln!("{choice}: left out: {error:#}"),
            }
        }
    }
    egress.close()?;
    if !args.json {
        println!(
            "{} rooms, {} connections, 1 to {FAN_OUT}, AEAD_AES_256_GCM, CPU {cpu}",
            shape.rooms,
            shape.connections()
        );
        println!("egress: {}", egress.describe());
    }
    for variant in &mut variants {
        warm_up(&mut **variant, shape)?;
    }
    let rows = measure(&mut variants, args.rounds)?;
    if args.json {
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        print_table(&rows);
        for variant in variants.iter_mut().filter(|v| v.upkeep_ns() > 0.0) {
            println!(
                "{}: timers between the measurements, on top: {:.0} ns",
                variant.name(),
                variant.upkeep_ns()
            );
            if let Some(share) = variant.framed() {
                println!("{}: {:.0} % of messages left as frames", variant.name(), share * 100.0);
            }
            if let Some((share, mean)) = variant.audio_wait() {
                println!(
                    "{}: {:.0} % of audio waited for a frame, {:.1} ms on average",
                    variant.name(),
                    share * 100.0,
                    mean.as_secs_f64() * 1000.0
                );
            }
        }
    }
    Ok(())
}

/// All rounds of all variants and batches, in turns; the first round is forgotten.
fn measure(variants: &mut [Box<dyn Variant>], rounds: usize) -> anyhow::Result<Vec<Row>> {
    let clock: Duration = clock_cost();
    let mut samples = vec![vec![Vec::<Sample>::new(); BATCHES.len()]; variants.len()];
    for round in 0..=rounds {
        for (b, &batch) in BATCHES.iter().enumerate() {
            for (v, variant) in variants.iter_mut().enumerate() {
                let sample = sample(&mut **variant, batch, clock)?;
                if round > 0 {
                    samples[v][b].push(sample);
                }
            }
        }
    }
    Ok(variants
        .iter()
        .zip(&samples)
        .flat_map(|(variant, batches)| {
            let name = variant.name();
            BATCHES.iter().zip(batches).map(move |(&batch, samples)| Row::of(name, batch, samples))
        })
        .collect())
}

fn print_table(rows: &[Row]) {
    println!("\nCPU ns per packet out: median, [quartiles], (segments per message), ratio to naive\n");
    println!("{:<12}{}", "", BATCHES.map(|batch| format!("{:>42}", format!("K={batch}"))).join(""));
    let naive = |batch| rows.iter().find(|r| r.variant == "naive" && r.batch == batch);
    for line in rows.chunks(BATCHES.len()) {
        let cells = line.iter().map(|row| {
            let ratio = naive(row.batch).map_or(0.0, |naive| naive.ns_per_packet_out / row.ns_per_packet_out);
            let (low, high) = row.quartiles;
            let ns = row.ns_per_packet_out;
            format!(
                "{:>42}",
                format!("{ns:.0} [{low:.0}-{high:.0}] ({:.1}) {ratio:.2}x", row.segments_per_message)
            )
        });
        println!("{:<12}{}", line[0].variant, cells.collect::<String>());
    }
}
