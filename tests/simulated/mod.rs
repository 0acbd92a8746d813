//! Nothing is lost on a disk that loses whatever it may: the real logs and the real engine over a simulated one.
//!
//! A run is a world whose processes die by plan and are started again with another number of workers, until one comes
//! undisturbed to the end; the laws are held at every step ([`laws`]) and at the end ([`harness`]).

pub mod disk;
mod feeds;
mod harness;
mod laws;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::disk::{At, Done, Trouble};
use self::harness::{Broken, End, Rules, World};

/// Worlds at once; most of the time they wait.
const AT_ONCE: usize = 12;

/// Runs the jobs side by side, so many at once, and gives the first broken law.
fn side_by_side<T: Sync>(
    jobs: &[T],
    at_once: usize,
    run: impl Fn(&T) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let (next, broken) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, SeqCst)) {
                    if broken.lock().unwrap().is_some() {
                        break;
                    }
                    if let Err(why) = run(job) {
                        broken.lock().unwrap().get_or_insert(why);
                    }
                }
            });
        }
    });
    broken.into_inner().unwrap().map_or(Ok(()), Err)
}

const WORKERS: [usize; 3] = [1, 2, 4];

/// How the machine, or only the process, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Power,
    Kill,
}

fn end(world: &World, how: How, rng: &mut fastrand::Rng) {
    match how {
        How::Power => world.disk.cut_power(rng),
        How::Kill => world.disk.kill(),
    }
}

/// One undisturbed process more, and the judgement; how many rows of profiles there were.
fn conclude(world: &mut World, workers: usize) -> Result<usize, Broken> {
    match world.live(workers, Trouble::None)? {
        End::Finished => world.judge(),
        other => Err(Broken::Law(format!("an undisturbed process ended as {other:?}"))),
    }
}

/// The short feed, a death at one step, and the rest.
#[derive(Clone, Debug)]
struct Case {
    step: String,
    nth: u64,
    done: Done,
    how: How,
    workers: usize,
}

const SHORT: Rules = Rules { live: false, lockstep: true, segment_bytes: 700, snapshots_every: None };
/// So often that each shard is saved with each epoch that finds the one before saved.
const SNAPSHOTS: Rules = Rules { snapshots_every: Some(Duration::ZERO), ..SHORT };

fn case(mut world: World, case: &Case, seed: u64) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let trouble = Trouble::Death { at: At::Named(case.step.clone(), case.nth), done: case.done };
    let run = |world: &mut World, rng: &mut fastrand::Rng| {
        world.live(case.workers, trouble)?;
        end(world, case.how, rng);
        // Soon after it the power goes as well: what was recovered must have been made durable.
        let soon = Trouble::Death { at: At::Number(rng.u64(2..12)), done: Done::All };
        world.live(WORKERS[rng.usize(0..3)], soon)?;
        end(world, How::Power, rng);
        conclude(world, WORKERS[rng.usize(0..3)])
    };
    run(&mut world, &mut rng).map(drop).map_err(|why| format!("{case:?}, seed {seed}: {why}"))
}

/// Dies at every step of a run, or of steps that are many at so many, evenly spread.
fn every_step(base: &World, rules: Rules, at_most: u64) -> Result<BTreeMap<String, u64>, String> {
    let mut world = base.fork(rules);
    let profiles = conclude(&mut world, 1).map_err(|why| why.to_string())?;
    println!("{profiles} profile rows");
    assert!(profiles > 0, "no series has a profile");
    let steps = world.disk.steps();
    let mut cases = Vec::new();
    for (step, times) in &steps {
        for nth in (0..*times).step_by(times.div_ceil(at_most) as usize) {
            let all = [Done::Nothing, Done::Half, Done::All];
            // Where not every step is tried, none is in all ways.
            let some = if at_most < *times { &all[cases.len() % 3..][..1] } else { &all[..] };
            for done in some.iter().copied() {
                let how = if cases.len() % 3 == 0 { How::Kill } else { How::Power };
                let workers = WORKERS[cases.len() / 3 % 3];
                cases.push((cases.len() as u64, Case { step: step.clone(), nth, done, how, workers }));
            }
        }
    }
    println!("{} deaths at {} steps: {steps:?}", cases.len(), steps.values().sum::<u64>());
    side_by_side(&cases, AT_ONCE, |(seed, one)| case(base.fork(rules), one, *seed))?;
    Ok(steps)
}

/// Asserts that these steps, and no others of these folders, were met.
fn assert_steps(met: &BTreeMap<String, u64>, want: &[&str], folders: &[&str]) {
    let of_these = |name: &&str| folders.iter().any(|folder| name.contains(folder));
    // Which of the two chains is whose turn depends on when the process began.
    let one = |name: &str| name.replace("snapshots/a-", "snapshots/b-");
    let met: BTreeSet<String> = met.keys().map(String::as_str).filter(of_these).map(one).collect();
    let want: BTreeSet<String> = want.iter().map(|name| one(name)).collect();
    assert_eq!(met, want, "the durable steps are others than this list: look at the order they come in");
}

#[test]
fn a_death_at_any_step_loses_nothing() {
    let begun = std::time::Instant::now();
    let base = World::new(Arc::new(feeds::short(14)), SHORT);
    let steps = every_step(&base, SHORT, u64::MAX).unwrap_or_else(|why| panic!("{why}"));
    println!("{:?}", begun.elapsed());
    let want = [
        "create segment journal",
        "create segment outbox",
        "create segment series",
        "make dir journal",
        "make dir outbox",
        "make dir series",
        "sync dir journal",
        "sync dir outbox",
        "sync dir series",
        "sync journal",
        "sync outbox",
        "sync series",
        "write journal",
        "write outbox",
        "write series",
    ];
    assert_steps(&steps, &want, &[""]);
}

/// A world whose shards all have two snapshots.
fn with_snapshots() -> Result<World, Broken> {
    let feed = Arc::new(feeds::short(14));
    let mut world = World::new(feed, Rules { snapshots_every: Some(Duration::ZERO), ..SHORT });
    world.packets = 8;
    match world.live(2, Trouble::None)? {
        End::Finished => Ok(world),
        other => Err(Broken::Law(format!("an undisturbed process ended as {other:?}"))),
    }
}

#[test]
fn a_death_while_snapshots_are_made_and_logs_trimmed_loses_nothing() {
    let begun = std::time::Instant::now();
    // Trimming has a thread of its own, which on a busy machine may not get its turn before the process ends.
    let mut tries = 0;
    let steps = loop {
        tries += 1;
        let base = with_snapshots().unwrap_or_else(|why| panic!("{why}"));
        let steps = every_step(&base, SNAPSHOTS, 4).unwrap_or_else(|why| panic!("{why}"));
        if steps.contains_key("remove segment journal") || tries == 4 {
            break steps;
        }
    };
    println!("{:?}", begun.elapsed());
    let want = [
        "create snapshots/a-.state.new",
        "create snapshots/b-.state.new",
        "create snapshots/manifest.new",
        "cut snapshots/a-.sealed",
        "cut snapshots/b-.sealed",
        "remove segment journal",
        "remove snapshots/a-.state",
        "remove snapshots/b-.state",
        "rename snapshots/a-.state",
        "rename snapshots/b-.state",
        "rename snapshots/manifest",
        "sync dir snapshots",
        "sync snapshots/a-.sealed",
        "sync snapshots/a-.state.new",
        "sync snapshots/b-.sealed",
        "sync snapshots/b-.state.new",
        "sync snapshots/manifest.new",
        "write snapshots/a-.sealed",
        "write snapshots/a-.state.new",
        "write snapshots/b-.sealed",
        "write snapshots/b-.state.new",
        "write snapshots/manifest.new",
    ];
    assert_steps(&steps, &want, &["remove segment journal", "snapshots"]);
}

/// A long run of a random feed that dies and dies; how many rows of profiles it came to.
fn random_run(seed: u64) -> Result<usize, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let feed = Arc::new(feeds::random(&mut rng));
    let rules = Rules {
        live: rng.bool(),
        lockstep: rng.bool(),
        segment_bytes: [600, 2_000, 20_000][rng.usize(0..3)],
        snapshots_every: rng.bool().then_some(Duration::from_millis(20)),
    };
    let mut world = World::new(feed, rules);
    if rng.bool() {
        world.disk.slow(rng.u64(..));
    }
    let run = |world: &mut World, rng: &mut fastrand::Rng| {
        for _ in 0..rng.usize(1..6) {
            let at = At::Number([rng.u64(0..30), rng.u64(0..400)][rng.usize(0..2)]);
            let done = [Done::Nothing, Done::Half, Done::All][rng.usize(0..3)];
            let trouble = Trouble::Death { at, done };
            if world.live(WORKERS[rng.usize(0..3)], trouble)? == End::Finished {
                break;
            }
            let how = if rng.u8(0..3) == 0 { How::Kill } else { How::Power };
            end(world, how, rng);
        }
        conclude(world, WORKERS[rng.usize(0..3)])
    };
    run(&mut world, &mut rng).map_err(|why| format!("seed {seed}, {rules:?}: {why}"))
}

#[test]
fn random_deaths_lose_nothing() {
    let begun = std::time::Instant::now();
    let seeds: Vec<u64> = (0..crate::rounds(40)).collect();
    let profiles = AtomicUsize::new(0);
    let run = |seed: &u64| {
        profiles.fetch_add(random_run(*seed)?, SeqCst);
        Ok(())
    };
    side_by_side(&seeds, AT_ONCE, run).unwrap_or_else(|why| panic!("{why}"));
    println!("{} seeds in {:?}, {profiles:?} profile rows", seeds.len(), begun.elapsed());
    assert!(profiles.into_inner() > 0, "no series has a profile");
}

/// A disk that has no room for a while, or cannot sync: it is told, and then all goes on, with or without a start.
fn refusing(seed: u64) -> Result<(u32, u32), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let feed = Arc::new(feeds::short(14));
    let mut world = World::new(feed, Rules { lockstep: rng.bool(), live: rng.u8(0..3) == 0, ..SHORT });
    let (at, times) = (At::Number(rng.u64(0..150)), [1, 2, 5][rng.usize(0..3)]);
    let full = !seed.is_multiple_of(4);
    let trouble = if full { Trouble::Full { at, times } } else { Trouble::NoSync { at, times } };
    let starts =
        refuse(&mut world, &trouble, seed).map_err(|why| format!("seed {seed}, {trouble:?}: {why}"))?;
    Ok((world.refused, starts))
}

#[test]
fn a_disk_that_refuses_for_a_while_loses_nothing() {
    let (refused, starts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let first = crate::first_seed(0);
    let seeds: Vec<u64> = (first..first + crate::rounds(60)).collect();
    let run = |seed: &u64| {
        let (times, again) = refusing(*seed)?;
        refused.fetch_add(times as usize, SeqCst);
        starts.fetch_add(again as usize, SeqCst);
        Ok(())
    };
    side_by_side(&seeds, AT_ONCE, run).unwrap_or_else(|why| panic!("{why}"));
    println!("{refused:?} packets were refused at first, {starts:?} processes were started again");
}

/// Each kind of step on each file is refused, once and for a while; with windows of any shape.
#[test]
fn whatever_file_refuses_nothing_is_lost() {
    let begun = std::time::Instant::now();
    let (refused, starts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let first = crate::first_seed(0);
    let mut met = BTreeSet::new();
    for seed in first..first + crate::rounds(2) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rules = if rng.bool() { SNAPSHOTS } else { SHORT };
        let base = World::new(Arc::new(feeds::short_of_any(&mut rng, 14)), rules);
        let mut world = base.fork(rules);
        conclude(&mut world, 1).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let mut jobs = Vec::new();
        for (step, times) in world.disk.steps() {
            // One folder has a file for each shard and chain: some of them are enough.
            let spread: Vec<u64> =
                if times > 3 { vec![0, rng.u64(1..times)] } else { vec![rng.u64(0..times)] };
            for nth in spread {
                let needs_room = ["write", "create", "make"].iter().any(|verb| step.starts_with(verb));
                for errors in if needs_room { &[false, true][..] } else { &[true] } {
                    let (at, strikes) = (At::Named(step.clone(), nth), [1, 3][rng.usize(0..2)]);
                    let trouble = match *errors {
                        true => Trouble::Errors { at, times: strikes },
                        false => Trouble::Full { at, times: strikes },
                    };
                    jobs.push((trouble, rng.u64(..)));
                }
            }
            met.insert(step);
        }
        let run = |(trouble, seed): &(Trouble, u64)| {
            let mut world = base.fork(rules);
            let again = refuse(&mut world, trouble, *seed)
                .map_err(|why| format!("{trouble:?}, seed {seed}: {why}"))?;
            refused.fetch_add(world.refused as usize, SeqCst);
            starts.fetch_add(again as usize, SeqCst);
            Ok(())
        };
        side_by_side(&jobs, AT_ONCE, run).unwrap_or_else(|why| panic!("set {seed}, {rules:?}: {why}"));
        println!("set {seed}, {rules:?}: {} refusals", jobs.len());
    }
    for folder in ["journal", "outbox", "series"] {
        assert!(met.iter().any(|step| step.contains(folder)), "nothing of {folder} was refused: {met:?}");
    }
    println!("{refused:?} packets were refused at first, {starts:?} starts, {:?}", begun.elapsed());
}

/// Runs a world through this trouble, with as many starts as it takes; how many there were.
fn refuse(world: &mut World, trouble: &Trouble, seed: u64) -> Result<u32, Broken> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut trouble, mut starts) = (trouble.clone(), 0);
    while world.live(WORKERS[rng.usize(0..3)], trouble.clone())? != End::Finished {
        starts += 1;
        // It may go on for the next process.
        if starts > 3 {
            trouble = Trouble::None;
        }
        end(world, if rng.bool() { How::Kill } else { How::Power }, &mut rng);
    }
    world.judge()?;
    Ok(starts)
}

/// The end of a process that came to it, with every row.
const NOBODY_MINDED: &str = "nobody minded";
/// Kinds of files whose bits may flip.
const FOLDERS: [&str; 4] = ["journal", "outbox", "series", "snapshots"];

/// A bit flips while the machine is down: whoever reads it says so, or nobody needs it; the rows are right in any case.
fn flipped(base: &World, seed: u64) -> Result<&'static str, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let folder = FOLDERS[seed as usize % FOLDERS.len()];
    let snapshots = folder == "snapshots" || rng.bool();
    let mut world =
        if snapshots { base.fork(SNAPSHOTS) } else { World::new(Arc::new(feeds::short(14)), SHORT) };
    let at = At::Number(rng.u64(20..170));
    let run = |world: &mut World, rng: &mut fastrand::Rng| {
        world.live(WORKERS[rng.usize(0..3)], Trouble::Death { at, done: Done::All })?;
        world.disk.kill();
        let before = world.rows();
        // Of snapshots mostly those of shards with series, and the manifest.
        let needed = |name: &&String| {
            folder != "snapshots" || !(*name > &"008".to_owned() && name.starts_with(['0', '1', '2']))
        };
        let files = world.disk.files(folder, false);
        let names: Vec<&String> = files.keys().filter(needed).collect();
        let name = names[rng.usize(0..names.len())];
        let bytes = files[name].len();
        if bytes == 0 {
            return Ok("nothing to flip");
        }
        let (byte, bit) = (rng.usize(0..bytes), rng.u8(0..8));
        world.flip(folder, name, byte, bit);
        let what = format!("bit {bit} of byte {byte} of {folder}/{name} ({bytes} bytes)");
        let end = match world.live(WORKERS[rng.usize(0..3)], Trouble::None) {
            Ok(End::Finished) => NOBODY_MINDED,
            Ok(other) => return Err(Broken::Law(format!("{what}: it ended as {other:?}"))),
            Err(Broken::Stopped(why) | Broken::Law(why))
                if why.contains(name.as_str()) && why.contains("is damaged at offset") =>
            {
                "named"
            }
            // The last records of the journal: they are cut off, and what was made of them tells.
            Err(Broken::Stopped(why))
                if folder == "journal" && why.contains("the journal lost its end, or is another one") =>
            {
                "the end is missing"
            }
            // In what was not yet proven synced a flipped bit looks like a torn tail. The rows are right all the same.
            Err(Broken::Law(why)) if folder == "series" && why.contains("has no labels") => {
                "labels were lost"
            }
            Err(broken) => return Err(Broken::Law(format!("{what}: {broken}"))),
        };
        world
            .judge_damaged(&before, end == NOBODY_MINDED)
            .map_err(|why| Broken::Law(format!("{what}, {end}: {why}")))?;
        Ok(end)
    };
    run(&mut world, &mut rng).map_err(|why| format!("seed {seed}: {why}"))
}

#[test]
fn a_bit_that_flips_is_told_or_does_no_harm() {
    let base = with_snapshots().unwrap_or_else(|why| panic!("{why}"));
    let seeds: Vec<u64> = (0..crate::rounds(320)).collect();
    let ends = Mutex::new(BTreeMap::<_, usize>::new());
    let run = |seed: &u64| {
        let end = flipped(&base, *seed)?;
        *ends.lock().unwrap().entry((FOLDERS[*seed as usize % FOLDERS.len()], end)).or_default() += 1;
        Ok(())
    };
    side_by_side(&seeds, AT_ONCE, run).unwrap_or_else(|why| panic!("{why}"));
    let ends = ends.into_inner().unwrap();
    println!("{ends:?}");
    // Of snapshots the one before is taken; in the other logs some bit hits what is needed.
    for folder in ["journal", "outbox", "series"] {
        let noticed = ends.keys().any(|(of, end)| *of == folder && *end != NOBODY_MINDED);
        assert!(noticed, "no flipped bit of {folder} was noticed: {ends:?}");
    }
}

/// The seeded bugs (src/faults.rs), the test that finds each, and what it says then.
#[cfg(feature = "faults")]
const MUTANTS: [(u32, &str, &[&str]); 11] = [
    (1, "any_step", &["before it was durable in the outbox"]),
    (2, "any_step", &["its end is not durable in the journal"]),
    (3, "any_step", &["samples are acknowledged"]),
    (4, "any_step", &["its labels are not durable"]),
    (5, "any_step", &["not durable", "are durable"]),
    (6, "any_step", &["damaged", "are durable"]),
    // A start says it when the outbox ends before the snapshot does.
    (7, "random", &["the outbox does not hold that", "and the newest snapshot holds epoch"]),
    (8, "snapshots", &["the journal is trimmed up to"]),
    (9, "snapshots", &["the durable manifest is not whole"]),
    (10, "any_step", &["behind itself or a later one"]),
    (11, "any_step", &["not durable", "are durable", "before it was durable"]),
];

/// Without a bug the tests above pass, so that is not tried again here.
#[cfg(feature = "faults")]
#[test]
fn every_seeded_bug_is_found() {
    if std::env::var("MUTANT").is_ok() {
        return;
    }
    let find = |(mutant, test, words): &(u32, &str, &[&str])| {
        let begun = std::time::Instant::now();
        let test = ["a_death_at_any_step", "a_death_while_snapshots", "random_deaths"]
            .into_iter()
            .find(|name| name.contains(test))
            .expect("a test of this file");
        let program = std::env::current_exe().unwrap();
        let once = || {
            std::process::Command::new(&program)
                .args([&format!("simulated::{test}"), "--nocapture"])
                // Chance has a part in which seed finds it.
                .envs([
                    ("MUTANT", mutant.to_string().as_str()),
                    ("TEST_ROUNDS", "4"),
                    ("RUST_BACKTRACE", "0"),
                ])
                .output()
                .unwrap()
        };
        // The rooms run on threads of their own: on a busy machine a race that shows a bug may not come at first.
        let mut run = once();
        for _ in 0..7 {
            if !run.status.success() {
                break;
            }
            run = once();
        }
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        println!("mutant {mutant} after {:?}: {said}", begun.elapsed());
        match (run.status.success(), words.iter().any(|words| said.contains(words))) {
            (true, _) => Err(format!("mutant {mutant} is not found")),
            (false, false) => Err(format!("mutant {mutant} breaks another law: {said}")),
            (false, true) => Ok(()),
        }
    };
    side_by_side(&MUTANTS, 2, find).unwrap_or_else(|why| panic!("{why}"));
}
