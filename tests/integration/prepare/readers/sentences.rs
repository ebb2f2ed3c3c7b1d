//! What is left out of the sentences of articles and citations leaves no trace, and glues no words.

use super::{refused, texts};

const JATS: &str = "jats: {path: a.xml}";
const PUBMED: &str = "pubmed_xml: {path: a.xml}";

/// The text of an article of one paragraph.
#[track_caller]
fn sentence(markup: &str) -> String {
    let article = format!("<article><body><p>{markup}</p></body></article>");
    let mut read = texts(JATS, &[("a.xml", article.into_bytes())]).unwrap();
    assert_eq!(read.len(), 1);
    read.remove(0)
}

#[test]
fn blocks_within_a_sentence_part_it() {
    for block in [
        "<disp-formula><label>(1)</label><tex-math>y</tex-math></disp-formula>",
        "<disp-formula-group><disp-formula>y</disp-formula></disp-formula-group>",
        "<fig><label>1</label><caption><p>Shown</p></caption></fig>",
        "<fig-group><fig/></fig-group>",
        "<table-wrap><table><tr><td>1</td></tr></table></table-wrap>",
        "<table-wrap-group><table-wrap/></table-wrap-group>",
        "<table/>",
        "<array><tbody><tr><td>1</td></tr></tbody></array>",
        "<chem-struct-wrap><graphic/></chem-struct-wrap>",
        "<graphic/>",
        "<media><caption><p>Seen</p></caption></media>",
        "<supplementary-material><p>File</p></supplementary-material>",
        "<ref-list><ref/></ref-list>",
        "<hr/>",
        "<break/>",
    ] {
        assert_eq!(
            sentence(&format!("given by{block}where")),
            "given by where",
            "{block}"
        );
    }
    for inline in [
        "<inline-graphic/>",
        "<inline-formula><alternatives><graphic/><math/></alternatives></inline-formula>",
        "<fn><p>Foot</p></fn>",
    ] {
        assert_eq!(
            sentence(&format!("anti{inline}body")),
            "antibody",
            "{inline}"
        );
    }
    let formula = "<PubmedArticle><Article><ArticleTitle>by<DispFormula><math><mi>x</mi></math>\
                   </DispFormula>where</ArticleTitle></Article></PubmedArticle>";
    let read = texts(PUBMED, &[("a.xml", formula.into())]).unwrap();
    assert_eq!(read, ["by where"]);
    let file =
        "see <inline-supplementary-material href=\"a\">File 1</inline-supplementary-material>.";
    assert_eq!(sentence(file), "see File 1.");
}

/// A citation of this number, and one that is a superscript.
fn cite(number: &str) -> String {
    format!("<xref ref-type=\"bibr\" rid=\"r\">{number}</xref>")
}

fn raised(number: &str) -> String {
    cite(&format!("<sup>{number}</sup>"))
}

#[test]
fn raised_citations_take_what_stands_between_them_along() {
    let (one, two) = (raised("1"), raised("2"));
    for (markup, expected) in [
        (format!("Known{one}<sup>,</sup>{two} facts"), "Known facts"),
        (
            format!("Known{one}<sup> \u{2013} </sup>{two}. So"),
            "Known. So",
        ),
        (
            format!("Known{one}<sup>\u{2013}</sup>{two}<sup>;</sup>{one}. So"),
            "Known. So",
        ),
        (format!("facts<sup>[</sup>{one}<sup>]</sup>."), "facts."),
        // The space before them goes where what follows has none; a written one stays.
        (
            format!("facts <sup>{}</sup>. More", cite("1")),
            "facts. More",
        ),
        (
            format!("facts {one} <sup>(</sup>{two}<sup>)</sup>, more"),
            "facts, more",
        ),
        (format!("facts {one} more"), "facts more"),
        (format!("facts{one} (more)"), "facts (more)"),
        // A charge, and cells without a marker.
        (
            "Cl<sup>-</sup> and CD4<sup>\u{2212}</sup>.".to_owned(),
            "Cl- and CD4\u{2212}.",
        ),
        (
            format!("fact{one} of Cl<sup>\u{2013}</sup>"),
            "fact of Cl\u{2013}",
        ),
    ] {
        assert_eq!(sentence(&markup), expected, "{markup}");
    }
}

#[test]
fn a_number_beside_its_citation_stays() {
    let four = cite("4");
    for (markup, expected) in [
        (format!("10<sup>6{four}</sup> cells"), "10^6 cells"),
        (
            format!("10<sup>\u{2212}6{four},{four}</sup>."),
            "10^\u{2212}6.",
        ),
        (
            format!("kg/m<sup>2{four}</sup>, CD4<sup>+{four}</sup>"),
            "kg/m2, CD4+",
        ),
        (format!("10<sup>3</sup><sup>{four}</sup> cfu"), "10^3 cfu"),
        // These are citations without a link.
        (format!("known<sup>1,{four}</sup> facts"), "known facts"),
        (
            format!("known<sup>1\u{2013}{four}</sup> facts"),
            "known facts",
        ),
        (format!("known<sup>1 {four}</sup> facts"), "known facts"),
        (format!("known<sup>[{four}]</sup> facts"), "known facts"),
    ] {
        assert_eq!(sentence(&markup), expected, "{markup}");
    }
}

#[test]
fn numbers_of_citations_touch_no_word() {
    let (two, three) = (cite("2"), cite("3"));
    for (markup, expected) in [
        (format!("pain{}. So", cite("12")), "pain 12. So"),
        (format!("fever.{three} Next"), "fever. 3 Next"),
        (format!("in 2010{two},{three} and"), "in 2010 2,3 and"),
        (
            format!("(so),{two}\u{2013}{three} and"),
            "(so), 2\u{2013}3 and",
        ),
        (format!("both{two}{three}"), "both 2 3"),
        (format!("both{}", cite("2,3")), "both 2,3"),
        // As they are written.
        (
            format!("pain [{two},{three}; {two}-{three}]"),
            "pain [2,3; 2-3]",
        ),
        (format!("pain ({two}) and {three}"), "pain (2) and 3"),
        (format!("refs 1-{two}"), "refs 1-2"),
        (format!("by Doe{}", cite("[2]")), "by Doe[2]"),
        (format!("{two} was first"), "2 was first"),
    ] {
        assert_eq!(sentence(&markup), expected, "{markup}");
    }
}

#[test]
fn attributes_that_cannot_be_read() {
    let citation = |attribute: &str| {
        format!(
            "<PubmedArticle>\n<Article><Abstract><AbstractText {attribute}>a</AbstractText>\
             </Abstract></Article></PubmedArticle>"
        )
    };
    let read = texts(
        PUBMED,
        &[("a.xml", citation("Label='A&amp;B&nbsp;&#67;'").into())],
    );
    assert_eq!(read.unwrap(), ["A&B\u{a0}C: a"]);
    let error = |attribute: &str| refused(PUBMED, &[("a.xml", citation(attribute).into_bytes())]);
    insta::assert_snapshot!(error("Label=\"AIM &foo;\""), @r"
    DIR/a.xml, line 2: an entity that XML does not know
      hint: write the character itself; entities of a document type are not read
    ");
    for attribute in ["Label=AIM", "Label=\"A & B\"", "Other=x Label='A'"] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(error(attribute), @r"
            DIR/a.xml, line 2: not well-formed XML
              hint: mend this place, or copy the file again
            ");
        }
    }
    let article = "<article><body><p>a<xref ref-type=bibr>1</xref></p></body></article>";
    insta::assert_snapshot!(refused(JATS, &[("a.xml", article.into())]), @r"
    DIR/a.xml, line 1: not well-formed XML
      hint: mend this place, or copy the file again
    ");
}
