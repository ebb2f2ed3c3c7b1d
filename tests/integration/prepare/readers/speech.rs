//! Invented conversations in every form that Praat writes.

use std::fmt::Write;

use super::{PRIVATE, documents, refused, texts};

const READ: &str =
    "text_grid: {path: \"*_{speaker}.TextGrid\", speakers: {doc: \"Doctor:\", pat: \"Patient:\"}}";

/// Start and text of each interval.
type Intervals<'a> = &'a [(f64, &'a str)];

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn long(tiers: &[(&str, Intervals<'_>)]) -> String {
    let mut file = format!(
        "File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n\nxmin = 0 \nxmax = 9.5 \n\
         tiers? <exists> \nsize = {} \nitem []: \n",
        tiers.len()
    );
    for (number, (name, intervals)) in tiers.iter().enumerate() {
        write!(
            file,
            "    item [{}]:\n        class = \"IntervalTier\" \n        name = {} \n        xmin \
             = 0 \n        xmax = 9.5 \n        intervals: size = {} \n",
            number + 1,
            quote(name),
            intervals.len()
        )
        .unwrap();
        for (number, (start, text)) in intervals.iter().enumerate() {
            write!(
                file,
                "        intervals [{}]:\n            xmin = {start} \n            xmax = {} \n\
                 \x20           text = {} \n",
                number + 1,
                start + 0.5,
                quote(text)
            )
            .unwrap();
        }
    }
    file
}

fn short(tiers: &[(&str, Intervals<'_>)]) -> String {
    let mut file = format!(
        "File type = \"ooTextFile short\"\n\"TextGrid\"\n\n0\n9.5\n<exists>\n{}\n",
        tiers.len()
    );
    for (name, intervals) in tiers {
        write!(
            file,
            "\"IntervalTier\"\n{}\n0\n9.5\n{}\n",
            quote(name),
            intervals.len()
        )
        .unwrap();
        for (start, text) in *intervals {
            write!(file, "{start}\n{}\n{}\n", start + 0.5, quote(text)).unwrap();
        }
    }
    file
}

const DOCTOR: Intervals<'_> = &[
    (0.0, ""),
    (1.0, "Hello. <UNSURE>How are</UNSURE> you?"),
    (3.25, "<UNIN/>"),
    (5.0, "Pain <5 min, or\n more > 5?  <INAUDIBLE_SPEECH/>"),
];
const PATIENT: Intervals<'_> = &[
    (2.0, "A \"bad\" back, <UNIN/>doctor."),
    (5.0, "Um,"),
    (5.5, "no."),
];
const TEXT: &str = "Doctor: Hello. How are you?\nPatient: A \"bad\" back, doctor.\n\
    Doctor: Pain <5 min, or more > 5?\nPatient: Um,\nPatient: no.";

#[test]
fn turns_of_all_speakers_interleave() {
    let utf16 = |text: &str| -> Vec<u8> {
        let units = text.encode_utf16().flat_map(u16::to_be_bytes);
        [0xfe, 0xff].into_iter().chain(units).collect()
    };
    let (doctor, patient) = ([("Speaker", DOCTOR)], [("Speaker", PATIENT)]);
    let files = [
        ("a_doc.TextGrid", long(&doctor).into_bytes()),
        (
            "a_pat.TextGrid",
            long(&patient).replace('\n', "\r\n").into_bytes(),
        ),
        ("b_doc.TextGrid", short(&doctor).into_bytes()),
        ("b_pat.TextGrid", utf16(&short(&patient))),
    ];
    let found = documents(READ, &files).unwrap();
    let place = |file: &str| format!("DIR/{file}_doc.TextGrid");
    let expected = [(place("a"), TEXT.to_owned()), (place("b"), TEXT.to_owned())];
    assert_eq!(found, expected);
    // Both speakers in one file, beside a tier that is nobody's and one of points.
    let notes: Intervals<'_> = &[(0.0, "not said")];
    let mut both = short(&[("doc", DOCTOR), ("notes", notes), ("pat", PATIENT)]);
    both = both.replace("<exists>\n3", "<exists>\n4 ! tiers");
    both += "\"TextTier\"\n\"doc\"\n0\n9.5\n1\n0.5\n\"a point\"\n";
    let read = "text_grid: {path: \"*.TextGrid\", speakers: {doc: \"Doctor:\", pat: \"Patient:\"}}";
    let found = texts(read, &[("a.TextGrid", both.into_bytes())]).unwrap();
    assert_eq!(found, [TEXT]);
}

#[test]
fn companions_and_tiers_must_be_there() {
    let doctor = long(&[("Speaker", DOCTOR)]).into_bytes();
    let files = [
        ("a_doc.TextGrid", doctor.clone()),
        ("a_pat.TextGrid", doctor.clone()),
        ("b_doc.TextGrid", doctor.clone()),
    ];
    insta::assert_snapshot!(refused(READ, &files), @r#"
    DIR/b_doc.TextGrid has no file of the speaker "pat" beside it
      hint: the names of the files of one conversation differ in {speaker} alone
    "#);
    insta::assert_snapshot!(refused(READ, &files[..1]), @r"
    no file matches DIR/*_pat.TextGrid
      hint: relative paths start at the folder of the configuration
    ");
    let read = "text_grid: {path: \"a_doc.TextGrid\", speakers: {doc: \"Doctor:\"}}";
    insta::assert_snapshot!(refused(read, &files[..1]), @r#"
    DIR/a_doc.TextGrid: no tier "doc"
      hint: without {speaker} in `path` each of `speakers` is one tier of the file
    "#);
}

#[test]
fn tiers_that_are_not_one_speakers() {
    let notes: Intervals<'_> = &[(0.0, PRIVATE)];
    let doctor = short(&[("Speaker", DOCTOR), ("notes", notes)]).into_bytes();
    let patient = short(&[("Speaker", PATIENT)]).into_bytes();
    let files = [("a_doc.TextGrid", doctor), ("a_pat.TextGrid", patient)];
    insta::assert_snapshot!(refused(READ, &files), @r"
    DIR/a_doc.TextGrid: 2 tiers of intervals, where a speaker's own file has one
      hint: leave the others out of the file, or name tiers with `speakers` and no {speaker} in `path`
    ");
    let read = "text_grid: {path: a.TextGrid, speakers: {doc: \"Doctor:\", pat: \"Patient:\"}}";
    let twice = short(&[("doc", DOCTOR), ("pat", PATIENT), ("doc", notes)]);
    insta::assert_snapshot!(refused(read, &[("a.TextGrid", twice.into_bytes())]), @r#"
    DIR/a.TextGrid: 2 tiers "doc"
      hint: without {speaker} in `path` each of `speakers` is one tier of the file
    "#);
}

#[test]
fn files_that_are_not_one_speakers() {
    let whole = |name: &'static str| (name, short(&[("s", DOCTOR)]).into_bytes());
    let read = |speakers: &str| {
        format!("text_grid: {{path: \"*{{speaker}}.TextGrid\", speakers: {{{speakers}}}}}")
    };
    // A speaker that is a pattern matches files, but stands in no name.
    let pattern = read("\"d*c\": D");
    insta::assert_snapshot!(refused(&pattern, &[whole("a_doc.TextGrid")]), @r#"
    DIR/a_doc.TextGrid: the speaker "d*c" is not in the file's name
      hint: `speakers` names what stands for {speaker} in `path`, letter by letter
    "#);
    // The end of one speaker is another.
    let both = read("doc: D, c: C");
    let files = [whole("a_doc.TextGrid"), whole("a_c.TextGrid")];
    insta::assert_snapshot!(refused(&both, &files), @r#"
    DIR/a_doc.TextGrid: the file of both "c" and "doc"
      hint: let `path` say more around {speaker}, as in *_{speaker}.TextGrid
    "#);
    // Occurrences that overlap are looked at one by one.
    let read = "text_grid: {path: \"?a{speaker}.TextGrid\", speakers: {aa: A}}";
    assert_eq!(texts(read, &[whole("xaaa.TextGrid")]).unwrap().len(), 1);
}

#[test]
fn files_that_are_no_text_grid() {
    let read = "text_grid: {path: a.TextGrid, speakers: {Speaker: \"\"}}";
    let whole = long(&[("Speaker", &[(0.0, PRIVATE), (1.0, PRIVATE)])]);
    assert_eq!(
        texts(read, &[("a.TextGrid", whole.clone().into_bytes())]).unwrap(),
        [format!("{PRIVATE}\n{PRIVATE}")]
    );
    let error = |file: String| refused(read, &[("a.TextGrid", file.into_bytes())]);
    insta::assert_snapshot!(error(PRIVATE.to_owned()), @r"
    DIR/a.TextGrid, line 1: no TextGrid
      hint: save the file anew with Praat as a text file, long or short
    ");
    insta::assert_snapshot!(error(whole.replace("\"TextGrid\"", "\"PitchTier\"")), @r"
    DIR/a.TextGrid, line 2: no TextGrid
      hint: save the file anew with Praat as a text file, long or short
    ");
    insta::assert_snapshot!(error(whole.replace("size = 2", "size = 3")), @r"
    DIR/a.TextGrid, line 23: an interval is incomplete
      hint: save the file anew with Praat as a text file, long or short
    ");
    insta::assert_snapshot!(error(whole.replace("intervals: size = 2", "intervals: size = x")), @r"
    DIR/a.TextGrid, line 17: there is more than is counted
      hint: save the file anew with Praat as a text file, long or short
    ");
    insta::assert_snapshot!(error(whole.replace("size = 1", "size = 2")), @r"
    DIR/a.TextGrid, line 23: a tier is missing
      hint: save the file anew with Praat as a text file, long or short
    ");
}
