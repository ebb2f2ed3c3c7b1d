//! Articles, citations and question pages in XML, all invented.

use std::fmt::Write;

use super::{PRIVATE, documents, refused, texts};

const JATS: &str = "jats: {path: \"*.nxml\"}";
const PUBMED: &str = "pubmed_xml: {path: a.xml}";
const MEDQUAD: &str = "medquad_xml: {path: a.xml}";

const ARTICLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "https://dtd.invalid/JATS.dtd" [
  <!ENTITY unused "x">
]>
<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML">
<front><journal-meta><journal-title>Journal</journal-title></journal-meta>
<article-meta><title-group><article-title>Of <italic>in vivo</italic>
   water<xref ref-type="fn" rid="n">*</xref></article-title><alt-title>Water</alt-title>
</title-group><contrib-group><name><surname>Doe</surname></name></contrib-group>
<abstract abstract-type="toc"><p>Catchword</p></abstract>
<abstract><title>Abstract</title><sec><title>Aim</title><p>H<sub>2</sub>O &amp; CO<sub>2 </sub>are
 small&#x2014;p &lt; 0.05.</p></sec></abstract>
<trans-abstract xml:lang="fr"><p>Eau</p></trans-abstract></article-meta></front>
<body>
<sec id="s1"><label>1</label><title>Methods</title>
<p>After 10<sup>5</sup> cells<sup><xref ref-type="bibr" rid="r1">1</xref>,<xref ref-type="bibr"
 rid="r2">2 </xref></sup>were <bold>washed</bold> [<xref ref-type="bibr" rid="r3">3</xref>],
 see <xref ref-type="fig" rid="f">Figure 1</xref><xref ref-type="bibr"><sup>4</sup></xref>.</p>
<!-- <p>comment</p> --><?pi data?>
<p>Let <inline-formula><mml:math><mml:mi>y</mml:mi></mml:math></inline-formula>be&nbsp;it.
<disp-formula>E = m<label>(1)</label></disp-formula> So<![CDATA[ < said >]]>.<fn><p>Foot</p></fn></p>
<fig id="f"><label>Figure 1</label><caption><p>A picture</p></caption></fig>
<table-wrap><table><tr><td>7</td></tr></table></table-wrap>
<list><list-item><label>a</label><p>First</p></list-item><list-item><p>Second</p></list-item></list>
<sec><title>Inner</title><p>Deep</p></sec></sec>
<sec sec-type="supplementary-material"><title>Supplement</title><sec><title>More</title>
<supplementary-material><p>File</p></supplementary-material></sec></sec>
</body>
<back><ack><p>Thanks</p></ack><ref-list><ref><article-title>Other</article-title></ref></ref-list>
</back>
<sub-article><front-stub><title-group><article-title>Reply</article-title></title-group></front-stub>
<body><p>Letter</p></body></sub-article></article>
"#;

const ARTICLE_TEXT: &str = "Of in vivo water\nAbstract\nAim\nH2O & CO2 are small\u{2014}p < 0.05.\n\
    Methods\nAfter 10^5 cells were washed [3], see Figure 1.\nLet be\u{a0}it. So < said >.\nFirst\n\
    Second\nInner\nDeep";

#[test]
fn an_article_is_its_title_abstract_and_body() {
    let file = [("a.nxml", ARTICLE.as_bytes().to_vec())];
    let found = documents(JATS, &file).unwrap();
    let expected = ("DIR/a.nxml, line 5".to_owned(), ARTICLE_TEXT.to_owned());
    assert_eq!(found, [expected]);
    // Several in a file, in UTF-16, and with Windows' line ends.
    let start = ARTICLE.find("<article").unwrap();
    let two = format!("<set>{0}\n{0}</set>", &ARTICLE[start..]).replace('\n', "\r\n");
    let bytes = two.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let both = texts(JATS, &[("a.nxml", bytes)]).unwrap();
    assert_eq!(both, [ARTICLE_TEXT, ARTICLE_TEXT]);
}

#[test]
fn a_citation_is_its_title_and_abstract() {
    let set = r#"<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet SYSTEM "http://dtd.invalid/pubmed.dtd">
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><Journal><Title>J</Title></Journal>
<ArticleTitle>Of <i>E. coli</i> &amp; H<sub>2</sub>O.</ArticleTitle><Abstract>
<AbstractText Label="AIM &amp; SCOPE" NlmCategory="OBJECTIVE">To count 10<sup>9</sup> cells.</AbstractText>
<AbstractText Label="METHODS"></AbstractText>
<AbstractText Label="UNLABELLED">Counted.<mml:math xmlns:mml="m"><mml:mi>x</mml:mi></mml:math></AbstractText>
<CopyrightInformation>(c) 2001</CopyrightInformation></Abstract></Article>
<CommentsCorrectionsList><ArticleTitle>No</ArticleTitle></CommentsCorrectionsList>
<OtherAbstract><AbstractText>Autre</AbstractText></OtherAbstract></MedlineCitation></PubmedArticle>
<PubmedArticle><Article><ArticleTitle>Alone</ArticleTitle></Article></PubmedArticle>
<PubmedBookArticle><BookDocument><ArticleTitle>Chapter</ArticleTitle><Abstract><AbstractText>Of a
 book.</AbstractText></Abstract></BookDocument></PubmedBookArticle>
<PubmedArticle><Article><ArticleTitle/></Article></PubmedArticle>
<DeleteCitation><PMID>7</PMID></DeleteCitation>
</PubmedArticleSet>"#;
    let found = documents(PUBMED, &[("a.xml", set.as_bytes().to_vec())]).unwrap();
    let expected = [
        (
            4,
            "Of E. coli & H2O.\nAIM & SCOPE: To count 10^9 cells.\nCounted.",
        ),
        (12, "Alone"),
        (13, "Chapter\nOf a book."),
        (15, ""),
    ];
    let place = |line: u32| format!("DIR/a.xml, line {line}");
    assert_eq!(
        found,
        expected.map(|(line, text)| (place(line), text.to_owned()))
    );
}

#[test]
fn exponents_are_the_same_however_they_are_written() {
    for raised in [
        "<sup>\u{2212}3</sup>",
        "<sup>&#x2212;3</sup>",
        "<sup>&minus;3</sup>",
        "<sup><![CDATA[\u{2212}]]>3</sup>",
        "<sup>\u{2212}<i>3</i></sup>",
    ] {
        let article = format!("<article><body><p>10{raised} mol</p></body></article>");
        let file = [("a.nxml", article.into_bytes())];
        assert_eq!(
            texts(JATS, &file).unwrap(),
            ["10^\u{2212}3 mol"],
            "{raised}"
        );
        let citation = format!(
            "<PubmedArticle><Article><ArticleTitle>10{raised} mol</ArticleTitle></Article>\
             </PubmedArticle>"
        );
        let file = [("a.xml", citation.into_bytes())];
        assert_eq!(
            texts(PUBMED, &file).unwrap(),
            ["10^\u{2212}3 mol"],
            "{raised}"
        );
    }
}

#[test]
fn a_pair_is_a_question_and_its_answer() {
    let page = "<Document><Focus>F</Focus><QAPairs>\n<QAPair pid=\"1\">\n<Question>What is\n it ?\
        </Question>\n<Answer>Key Points\n\n     - One.    - Two &lt; 3.\n  </Answer></QAPair>\
        <QAPair><Question>Removed ?</Question><Answer/></QAPair><QAPair><Question/>\
        <Answer>Alone</Answer></QAPair></QAPairs></Document>";
    let read = texts(MEDQUAD, &[("a.xml", page.as_bytes().to_vec())]).unwrap();
    assert_eq!(
        read,
        ["What is it ?\nKey Points\n- One. - Two < 3.", "\nAlone"]
    );
    let lower = page
        .replace("QAPairs", "qaPairs")
        .replace("QAPair", "pair")
        .replace("Question", "question")
        .replace("Answer", "answer");
    let again = texts(MEDQUAD, &[("a.xml", lower.into_bytes())]).unwrap();
    assert_eq!(again, read);
    // Whatever system a page is from.
    for line_end in ["\r", "\r\n"] {
        let page = page.replace('\n', line_end);
        let again = texts(MEDQUAD, &[("a.xml", page.into_bytes())]).unwrap();
        assert_eq!(again, read);
    }
    let empty = "<Document><QAPairs></QAPairs></Document>";
    let read = texts(MEDQUAD, &[("a.xml", empty.into())]).unwrap();
    assert!(read.is_empty());
}

#[test]
fn xml_that_is_malformed() {
    let article = |body: &str| {
        let text = format!("<article>\n<body>\n<p>{PRIVATE}</p>\n{body}</body>\n</article>");
        refused(JATS, &[("a.nxml", text.into_bytes())])
    };
    for body in [
        format!("<p>{PRIVATE}</sec>"),
        format!("<p {PRIVATE}"),
        format!("<p>{PRIVATE} & more</p>"),
        format!("<p>{PRIVATE}</p></p>"),
    ] {
        let error = article(&body);
        let place = error.strip_prefix("DIR/a.nxml, line ").unwrap();
        let (line, message) = place.split_once(": ").unwrap();
        assert!(["4", "5", "6"].contains(&line), "{error}");
        assert_eq!(
            message,
            "not well-formed XML\n  hint: mend this place, or copy the file again"
        );
    }
    insta::assert_snapshot!(article("<p>a</p>\n<p>b</sec>\n<p>c</p>"), @r"
    DIR/a.nxml, line 5: not well-formed XML
      hint: mend this place, or copy the file again
    ");
    let cut = b"<article>\n<body>\n<p>a</p>".to_vec();
    insta::assert_snapshot!(refused(JATS, &[("a.nxml", cut)]), @r"
    DIR/a.nxml, line 3: the XML ends early
      hint: the file is incomplete; copy it again
    ");
    let text = format!("{PRIVATE}\n{PRIVATE}");
    insta::assert_snapshot!(refused(JATS, &[("a.nxml", text.into_bytes())]), @r"
    DIR/a.nxml, line 2: not well-formed XML
      hint: mend this place, or copy the file again
    ");
    let page = "<html><body><p>a</p></body></html>".as_bytes();
    insta::assert_snapshot!(refused(JATS, &[("a.nxml", page.to_vec())]), @r"
    DIR/a.nxml: no element <article>, so this is no JATS article
      hint: look whether the files are of this format
    ");
    insta::assert_snapshot!(refused(PUBMED, &[("a.xml", page.to_vec())]), @r"
    DIR/a.xml: no element <PubmedArticleSet>, so this is no PubMed file
      hint: look whether the files are of this format
    ");
    insta::assert_snapshot!(refused(MEDQUAD, &[("a.xml", page.to_vec())]), @r"
    DIR/a.xml: no element <QAPairs>, so this is no MedQuAD page
      hint: look whether the files are of this format
    ");
    let cyrillic = b"<?xml version=\"1.0\" encoding=\"koi8-r\"?>\n<article/>".to_vec();
    insta::assert_snapshot!(refused(JATS, &[("a.nxml", cyrillic)]), @r"
    DIR/a.nxml, line 1: an encoding is declared that is not read here
      hint: convert the file to UTF-8, for example with iconv
    ");
}

#[test]
fn entities_neither_grow_nor_fetch() {
    let mut definitions = String::from("<!ENTITY l0 \"lol\">");
    for level in 1..10 {
        let many = format!("&l{};", level - 1).repeat(10);
        write!(definitions, "<!ENTITY l{level} \"{many}\">").unwrap();
    }
    let outside = "<!ENTITY o SYSTEM \"file:///etc/hostname\">";
    for entity in ["l9", "l0", "o"] {
        let bomb = format!(
            "<!DOCTYPE article [{definitions}{outside}]>\n<article><body><p>&{entity};</p></body>\
             </article>"
        );
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(JATS, &[("a.nxml", bomb.into_bytes())]), @r"
            DIR/a.nxml, line 2: an entity that XML does not know
              hint: write the character itself; entities of a document type are not read
            ");
        }
    }
    let deep = format!("<article>{}", "<sec>".repeat(100_000));
    insta::assert_snapshot!(refused(JATS, &[("a.nxml", deep.into_bytes())]), @r"
    DIR/a.nxml, line 1: more than 256 elements within each other
      hint: look whether it is of this format
    ");
}
