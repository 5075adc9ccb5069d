//! Random programs that write files, against the rules of [`Watch`], in virtual time. A failing seed is in the message.

use super::*;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

const STEP: Duration = Duration::from_millis(50);

/// A file as it is on the disk and as it is shared: versions, 0 for none.
#[derive(Default, Clone)]
struct File {
    now: u64,
    shared: u64,
    written: Option<Instant>,
    /// When the writing that is under way ends.
    until: Option<Instant>,
}

struct World {
    rng: Rng,
    seed: u64,
    now: Instant,
    watch: Watch,
    files: BTreeMap<PathBuf, File>,
    looks: Vec<(Instant, Work, BTreeMap<PathBuf, u64>)>,
    ended: BTreeMap<PathBuf, Instant>,
    heard: BTreeMap<PathBuf, Instant>,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut watch = Watch::default();
        for share in ["/a", "/b", "/a/nested"] {
            watch.add(share.into(), now);
        }
        let names = ["/a/x", "/a/y", "/a/d/z", "/a/nested/x", "/b/x", "/b/y"];
        let files = names.map(|name| (name.into(), File::default()));
        Self {
            rng: Rng(seed),
            seed,
            now,
            watch,
            files: files.into(),
            looks: Vec::new(),
            ended: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    /// Some program does something.
    fn write(&mut self, may_begin: bool, may_lose: bool) {
        let mut heard = Vec::new();
        for (path, file) in &mut self.files {
            let writing = file.until.is_some_and(|until| until > self.now);
            if !writing {
                file.until = None;
            }
            if !writing && may_begin && self.rng.below(100) == 0 {
                let steps = [1, 1, 20, 200][usize::try_from(self.rng.below(4)).unwrap()];
                file.until = Some(self.now + STEP * steps);
            }
            let writes = file.until.is_some() && self.rng.below(3) == 0;
            let silent = file.written.is_none_or(|then| self.now - then > QUIET / 2);
            if file.until.is_some() && (writes || silent) {
                file.now += 1;
                file.written = Some(self.now);
                heard.push(path.clone());
            }
        }
        for path in heard {
            if may_lose && self.rng.below(20) == 0 {
                self.watch.on_lost(self.now);
            } else {
                self.watch.on_event(&path, self.now);
                self.heard.insert(path, self.now);
            }
        }
    }

    fn look(&mut self) {
        let seed = self.seed;
        while let Some(work) = self.watch.next(self.now) {
            assert!(self.looks.len() < MAX_LOOKS, "seed {seed}: too many looks");
            let again = self
                .looks
                .iter()
                .any(|(_, other, _)| other.share == work.share);
            assert!(!again, "seed {seed}: two looks at {:?}", work.share);
            if let Some(ended) = self.ended.get(&work.share) {
                assert!(self.now >= *ended + PAUSE, "seed {seed}: no pause");
            }
            for place in &work.quiet {
                if let Some(then) = self.heard.get(&work.share.join(place)) {
                    assert!(
                        self.now - *then >= QUIET,
                        "seed {seed}: {place:?} is not quiet"
                    );
                }
            }
            let seen = self.files.iter().filter(|(path, _)| covers(&work, path));
            let seen = seen.map(|(path, file)| (path.clone(), file.now)).collect();
            let took = STEP * u32::try_from(self.rng.below(20)).unwrap();
            self.looks.push((self.now + took, work, seen));
        }
        let (done, rest) = std::mem::take(&mut self.looks)
            .into_iter()
            .partition(|(end, ..)| *end <= self.now);
        self.looks = rest;
        for (_, work, seen) in done {
            self.end(&work, seen);
        }
    }

    /// What the disk says at the end of a look: a file written to lately, or meanwhile, is not taken.
    fn end(&mut self, work: &Work, seen: BTreeMap<PathBuf, u64>) {
        let (seed, mut looked) = (self.seed, Looked::default());
        for (path, version) in seen {
            let file = self.files.get_mut(&path).unwrap();
            let quiet = file.written.is_none_or(|then| self.now - then >= QUIET);
            let inner = path.strip_prefix(&work.share).unwrap().to_path_buf();
            if version == file.shared {
                continue;
            }
            if version != file.now || !quiet || work.busy.contains(&inner) {
                looked.unsettled.push(path);
                continue;
            }
            assert!(
                file.until.is_none(),
                "seed {seed}: {path:?} shared while it is written"
            );
            file.shared = version;
        }
        looked.took = STEP;
        self.ended.insert(work.share.clone(), self.now);
        self.watch.on_looked(work, looked, self.now);
    }

    fn run(&mut self, time: Duration, may_begin: bool, may_lose: bool) {
        let end = self.now + time;
        while self.now < end {
            self.write(may_begin, may_lose);
            self.look();
            self.now += STEP;
        }
    }
}

fn covers(work: &Work, path: &Path) -> bool {
    let Ok(place) = path.strip_prefix(&work.share) else {
        return false;
    };
    let mut places = work.quiet.iter().chain(&work.busy);
    places.any(|dirty| place.starts_with(dirty))
}

#[test]
fn what_is_shared_is_what_is_there_when_it_has_become_quiet() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.run(Duration::from_secs(60), true, seed % 2 == 0);
        // Nothing is lost any more: within this all is looked at, or the backstop must not be needed for it.
        world.run(Duration::from_secs(40), false, false);
        for (path, file) in &world.files {
            assert_eq!(file.shared, file.now, "seed {seed}: {path:?}");
        }
        assert!(!world.watch.is_dirty(Path::new("/a")), "seed {seed}");
    }
}

fn started(share: &str) -> (Watch, Instant) {
    let now = Instant::now();
    let mut watch = Watch::default();
    watch.add(share.into(), now);
    let work = watch.next(now).unwrap();
    assert!(work.is_scan());
    watch.on_looked(&work, Looked::default(), now);
    (watch, now + PAUSE)
}

#[test]
fn one_look_for_many_events_of_a_save() {
    let (mut watch, start) = started("/s");
    // A temporary file is written, and renamed over the real one.
    assert_eq!(watch.on_event(Path::new("/s/a~"), start), [Path::new("/s")]);
    for n in 1..100 {
        let at = start + Duration::from_millis(n * 10);
        watch.on_event(Path::new("/s/a~"), at);
        watch.on_event(Path::new("/s/a"), at);
        assert_eq!(watch.next(at), None);
    }
    let last = start + Duration::from_millis(990);
    assert_eq!(watch.next_deadline(), Some(last + QUIET));
    let work = watch.next(last + QUIET).unwrap();
    assert_eq!(work.quiet, [Path::new("a"), Path::new("a~")]);
    watch.on_looked(&work, Looked::default(), last + QUIET);
    assert_eq!(watch.next(last + QUIET + PATIENCE), None);
}

#[test]
fn a_file_that_never_becomes_quiet_is_told_once_and_holds_up_nothing() {
    let (mut watch, start) = started("/s");
    watch.on_event(Path::new("/s/done"), start);
    let (mut told, mut looks) = (Vec::new(), Vec::new());
    let mut now = start;
    while now < start + STUBBORN * 3 {
        watch.on_event(Path::new("/s/log"), now);
        told.extend(watch.stubborn(now));
        if let Some(work) = watch.next(now) {
            assert_eq!(work.busy, [Path::new("log")]);
            watch.on_looked(&work, Looked::default(), now);
            looks.push((now, work.quiet, work.lasting.len()));
        }
        now += STEP;
    }
    assert_eq!(told, [Path::new("/s/log")]);
    // The first look leaves the log listed if it was, the second and last does without it.
    let expected = [
        (start + QUIET + PATIENCE, vec![PathBuf::from("done")], 0),
        (start + STUBBORN, Vec::new(), 1),
    ];
    assert_eq!(looks, expected);
}

#[test]
fn too_much_news_becomes_a_look_at_everything() {
    let (mut watch, now) = started("/s");
    for n in 0..=MAX_DIRTY {
        watch.on_event(&Path::new("/s").join(n.to_string()), now);
    }
    let work = watch.next(now + QUIET).unwrap();
    assert!(work.is_scan());
    assert_eq!(work.busy, Vec::<PathBuf>::new());
}

#[test]
fn where_nothing_is_heard_everything_is_looked_at_more_often() {
    let (mut watch, now) = started("/s");
    assert!(watch.next_deadline().unwrap() > now + BLIND_SCAN);
    watch.set_heard(Path::new("/s"), false, now);
    let work = watch.next(now + BLIND_SCAN).unwrap();
    assert!(work.is_scan());
    watch.on_looked(&work, Looked::default(), now + BLIND_SCAN);
    assert!(watch.next(now + BLIND_SCAN * 2).is_some());
}

#[test]
fn what_is_gone_is_remembered_for_a_while() {
    let (mut watch, now) = started("/s");
    watch.on_event(Path::new("/s/a"), now);
    let work = watch.next(now + QUIET).unwrap();
    let looked = Looked {
        gone: vec!["/s/a".into()],
        ..Looked::default()
    };
    watch.on_looked(&work, looked, now);
    assert_eq!(watch.gone(), [Path::new("/s/a")]);
    assert!(watch.expired(now + KEEP_GONE / 2).is_empty());
    assert_eq!(watch.expired(now + KEEP_GONE), [Path::new("/s/a")]);
    assert!(watch.gone().is_empty());
}
