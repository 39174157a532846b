//! The shipped scenarios cell by cell, and what a simulation must keep.

use super::*;

const SCENARIO_1: &str = include_str!("../../scenarios/scenario-1.toml");
const SCENARIO_2: &str = include_str!("../../scenarios/scenario-2.toml");

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(text, |file| Err(format!("{file}: not there")))
}

fn csv_of(text: &str) -> String {
    csv(&simulate(&parse(text).expect("a scenario")).rows)
}

#[test]
fn the_first_published_table() {
    let expected = "\
time,total_load,avg_load,running,launching,waiting,canceled,terminating,action
00:00,0,0,1,0,0,0,0,none
05:00,0,0,1,0,0,0,0,none
10:00,36.59,36.59,1,0,0,0,0,none
15:00,36.59,36.59,1,0,0,0,0,none
20:00,36.59,36.59,1,0,0,0,0,none
25:00,73.18,73.18,1,1,0,0,0,launch 1
30:00,73.18,36.59,1,1,0,0,0,none
35:00,73.18,36.59,1,1,0,0,0,none
40:00,73.18,36.59,2,0,0,0,0,none
45:00,36.59,18.295,1,0,0,0,1,terminate 1
50:00,36.59,36.59,1,0,0,0,0,none
55:00,36.59,36.59,1,0,0,0,0,none
60:00,36.59,36.59,1,0,0,0,0,none
";
    assert_eq!(csv_of(SCENARIO_1), expected);
}

#[test]
fn the_second_published_table() {
    let expected = "\
time,total_load,avg_load,running,launching,waiting,canceled,terminating,action
00:00,0,0,1,0,0,0,0,none
05:00,0,0,1,0,0,0,0,none
10:00,25,25,1,0,0,0,0,none
15:00,50,50,1,0,0,0,0,none
20:00,75,75,1,1,0,0,0,launch 1
25:00,100,50,1,1,0,0,0,none
30:00,125,62.5,1,1,0,0,0,none
35:00,150,75,2,0,0,0,0,none
40:00,150,75,2,0,0,0,0,none
45:00,125,62.5,2,0,0,0,0,none
50:00,125,62.5,2,0,0,0,0,none
55:00,125,62.5,2,0,0,0,0,none
60:00,125,62.5,2,0,0,0,0,none
";
    assert_eq!(csv_of(SCENARIO_2), expected);
    assert_eq!(simulate(&parse(SCENARIO_2).expect("a scenario")).most_on_a_node, 6, "all on the first node");
}

const BASE: &str = "duration = \"10:00\"\nstep = 60\nlaunch_time = 120\nterminate_time = 60\n";

fn scenario(more: &str) -> Scenario {
    parse(&format!("{BASE}{more}")).expect("a scenario")
}

const LIMITS: &str = "[limits]\nmax_nodes = 4\nmin_nodes = 1\nmax_avg_load = 70\nmin_avg_load = 30\n";

#[test]
fn a_canceled_node_is_taken_back_and_is_ready_when_its_launch_is_over() {
    // Ordered at 1:00, canceled at 2:00, taken back at 3:00: ready at 5:00 all the same.
    let text = BASE.replace("launch_time = 120", "launch_time = 240")
        + LIMITS
        + "[[sessions]]\nstart = 0\nload = 25\n\
           [[sessions]]\nstart = 0\nend = \"01:00\"\nload = 60\n\
           [[sessions]]\nstart = \"02:00\"\nload = 60\n";
    let rows = simulate(&parse(&text).expect("a scenario")).rows;
    let seen: Vec<_> =
        rows.iter().map(|row| (row.running, row.launching, row.canceled, row.action.as_str())).collect();
    let expected = [
        (1, 0, 0, "none"),
        (1, 1, 0, "launch 1"),
        (1, 0, 1, "terminate 1"),
        (1, 1, 0, "launch 1"),
        (1, 1, 0, "none"),
        (2, 0, 0, "none"),
    ];
    assert_eq!(seen[..6], expected);
}

#[test]
fn a_canceled_node_goes_when_its_launch_is_over() {
    let text = LIMITS.to_owned() + "[[sessions]]\nstart = 0\nend = \"01:00\"\nload = 85\n";
    let rows = simulate(&scenario(&text)).rows;
    let seen: Vec<_> = rows.iter().map(|row| (row.launching, row.canceled, row.terminating)).collect();
    assert_eq!(seen[..5], [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]);
}

#[test]
fn a_draining_node_takes_no_session_and_goes_with_its_last_one() {
    let text = LIMITS.to_owned()
        + "[[sessions]]\nstart = 0\nload = 40\n\
           [[sessions]]\nstart = 0\nend = \"05:00\"\nload = 40\n\
           [[sessions]]\nstart = \"04:00\"\nend = \"07:30\"\nload = 10\n\
           [[sessions]]\nstart = \"06:30\"\nload = 5\n\
           [[sessions]]\nstart = \"06:30\"\nload = 5\nnode = 2\n";
    let outcome = simulate(&scenario(&text));
    let seen = |row: &Row| (row.total_load, row.running, row.waiting, row.terminating);
    let expected = [(90.0, 2, 0, 0), (50.0, 1, 1, 0), (55.0, 1, 1, 0), (45.0, 1, 0, 1), (45.0, 1, 0, 0)];
    assert_eq!(outcome.rows[5..10].iter().map(seen).collect::<Vec<_>>(), expected);
    assert_eq!(outcome.rows[6].action, "terminate 1");
    assert_eq!((outcome.placed, outcome.refused), (4, 1), "who is pinned to it goes nowhere else");
}

#[test]
fn rising_load_shows_as_it_rises() {
    let text = "[[sessions]]\nstart = \"01:00\"\nload = 40\nramp = 240\nend = \"07:00\"\n";
    let loads: Vec<_> = simulate(&scenario(text)).rows.iter().map(|row| row.total_load).collect();
    assert_eq!(loads, [0.0, 0.0, 10.0, 20.0, 30.0, 40.0, 40.0, 40.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_trace_becomes_sessions_with_its_sum() {
    let text = "[trace]\nsession_load = 4\npoints = [[\"00:00\", 10], [\"03:00\", 25.5], [\"05:00\", 7], [\"06:00\", 0]]\n";
    let outcome = simulate(&scenario(text));
    let loads: Vec<_> = outcome.rows.iter().map(|row| row.total_load).collect();
    assert_eq!(loads, [0.0, 10.0, 10.0, 10.0, 25.5, 25.5, 7.0, 0.0, 0.0, 0.0, 0.0]);
    let file = format!("{BASE}[trace]\nsession_load = 4\nfile = \"t.csv\"\n");
    let read = |text: &str| {
        Scenario::parse(&file, |name| if name == "t.csv" { Ok(text.to_owned()) } else { Err(name.into()) })
    };
    let same = read("time,load\n00:00,10\n03:00,25.5\n300,7\n\n06:00,0\n").expect("a trace");
    assert_eq!(simulate(&same), outcome);
    for (text, message) in [
        ("00:00,10\n", "t.csv: the first line is not time,load"),
        ("time,load\n00:00\n", "t.csv: line 2: not a time and a load"),
        ("time,load\n02:00,1\n01:00,1\n", "trace: each time is later than the one before"),
        ("time,load\n02:00,-1\n", "trace: loads of 0 to 1000000"),
    ] {
        assert_eq!(read(text).expect_err("no trace").to_string(), message);
    }
}

#[test]
fn a_burst_spreads_over_ten_nodes() {
    for cores in ["", "cores = 8\n"] {
        let text = format!("nodes = 10\n{cores}[[sessions]]\nstart = 10\ncount = 1000\nload = 0.5\n");
        let outcome = simulate(&scenario(&text));
        assert_eq!((outcome.placed, outcome.refused), (1000, 0));
        assert!(outcome.most_on_a_node <= 120, "{}", outcome.most_on_a_node);
        assert_eq!(outcome.rows.last().expect("rows").total_load, 500.0);
    }
}

#[test]
fn two_days_of_a_cluster_that_follows_its_load() {
    let mut text =
        "title = \"t\"\nduration = \"2880:00\"\nstep = 30\nlaunch_time = 90\nterminate_time = 30\n"
            .to_owned();
    text += "[limits]\nmax_nodes = 60\nmin_nodes = 2\nmax_avg_load = 70\nmin_avg_load = 40\n";
    for hour in 0..48_u64 {
        let crowd = 20 + 60 * (hour % 24).min(24 - hour % 24);
        let every = 3600 / crowd;
        text += &format!(
            "[[sessions]]\nstart = {}\ncount = {crowd}\nevery = {every}\nduration = \"55:00\"\nload = 4\nramp = 20\n",
            hour * 3600
        );
    }
    let scenario = parse(&text).expect("a scenario");
    let outcome = simulate(&scenario);
    assert_eq!(outcome.rows.len(), 2 * 2880 + 1);
    assert_eq!(outcome.placed, scenario.sessions.len() as u64);
    let active = |row: &Row| row.running + row.launching;
    // The first row brings one node up to two.
    assert!(outcome.rows.iter().all(|row| (2..=60).contains(&active(row))));
    assert!(outcome.rows.iter().map(active).max() > Some(20), "it grew");
    assert!(outcome.rows.iter().any(|row| row.waiting > 0), "it drained busy nodes");
    let table = table(&scenario, &outcome);
    assert!(
        table.contains("rows left out in which nothing changed")
            && table.contains(" sessions placed, at most ")
    );
    assert!(svg(&scenario, &outcome).len() < 1_000_000);
}

#[test]
fn the_table_and_the_picture() {
    let scenario = parse(SCENARIO_1).expect("a scenario");
    let outcome = simulate(&scenario);
    let text = table(&scenario, &outcome);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[2],
        " time  total load  avg load  running  launching  waiting  canceled  terminating  action"
    );
    assert_eq!(
        lines[12],
        "45:00       36.59    18.295        1          0        0         0            1  terminate 1"
    );
    assert_eq!(
        lines[17],
        "2 sessions placed, at most 2 on a node; at most 2 nodes at work, 1.08 node hours."
    );
    let picture = svg(&scenario, &outcome);
    assert_eq!(picture.matches("<polyline").count(), 2);
    assert_eq!(picture.matches("<polygon").count(), 5);
    assert_eq!(picture.matches("stroke-dasharray").count(), 2, "both limits");
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    // 73.18 of 100 at 25:00: x = 70 + 860 * 25 / 60, y = 60 + 170 * (1 - 0.7318).
    assert!(picture.contains("428.3,105.6"), "{picture}");
}

#[test]
fn what_a_scenario_may_not_say() {
    let limits = |text: &str| LIMITS.replace("min_nodes = 1", text);
    for (more, message) in [
        ("step = 60", "duplicate key"),
        ("colour = 1", "unknown field `colour`"),
        ("report = 0", "step and report: more than 0 seconds"),
        ("report = \"5\"\nnodes = 200000", "nodes: at most 100000"),
        ("report = \"5:7\"", "5:7: a time is seconds, or \"MM:SS\""),
        ("report = -5", "a time: seconds, or \"MM:SS\""),
        ("cores = 0", "cores: 1 to 1024"),
        ("strategy = \"streams\"", "a scenario has no streams"),
        (&limits("min_nodes = 5"), "limits: min_nodes <= max_nodes"),
        (&LIMITS.replace("= 30", "= 71"), "limits: 0 <= min_avg_load <= max_avg_load <= 100"),
        ("[[sessions]]\nstart = 0\nload = -1", "session load -1: 0 to 1000000"),
        ("[[sessions]]\nstart = 0\nload = nan", "session load NaN: 0 to 1000000"),
        ("[[sessions]]\nstart = 0\nload = 1\nnode = 0", "node: the first one is 1"),
        ("[[sessions]]\nstart = 9\nload = 1\nend = 8", "a session ends before it starts"),
        ("[[sessions]]\nstart = 9\nload = 1\nend = 18\nduration = 9", "an end or a duration, not both"),
        ("[[sessions]]\nstart = 9\nload = 1\ncount = 4000000000", "more than 10000000 sessions"),
        ("[trace]\nsession_load = 1", "trace: either file or points"),
        ("[trace]\nsession_load = 0\nfile = \"f\"", "trace: session_load of 0.001"),
        ("[trace]\nsession_load = 1\nfile = \"f\"", "f: not there"),
    ] {
        let error = parse(&format!("{BASE}{more}")).expect_err(more).to_string();
        assert!(error.contains(message), "{more}: {error}");
    }
}
