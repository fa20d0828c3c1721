"""What stands around a letter that is chosen, called right, denied or only mentioned
(near/evaluation/graders/choice.py).

Patterns named *_LEFT are searched in what comes before the letter and end there; *_RIGHT are matched to what follows.
"""

import re

I = re.IGNORECASE  # noqa: E741 - as re names it


def one_of(*words: str) -> str:
    """A group of alternatives."""
    return f"(?:{'|'.join(words)})"


# emphasis, formulas and commands around text say nothing of a letter
FORMAT = re.compile(
    r"\*+|`+|\$|(?<!\w)_+|_+(?!\w)|\\(?:text|math)(?:bf|rm|sf|it|tt)?(?=\{)|\\boldsymbol(?=\{)|\\[()\[\] ,;]"
)
OPENED, CLOSED = r"[(\[{<\"'“‘「【]", r"[)\]}>\"'”’」】]"
MENTION = re.compile(
    rf"(?<![A-Za-z0-9]){OPENED} ?(?P<wrapped>[A-Za-z])[.)]? ?{CLOSED}"
    r"|(?:(?<![A-Za-z0-9À-ɏ'’&/-])(?<![A-Za-z]\.)|(?<=\b[A-J]/))(?P<bare>[A-J]{2,6}|[A-Za-z])"
    r"(?![A-Za-z0-9À-ɏ#]|\+(?![A-J]\b)|['’](?!s )\w|[-.&]\w)"
)
# words behind a bare "A" or "I" that is the letter; before any other word it is an article or a pronoun
CONNECTIVE = (
    r"(?:because|since|as|for|due|given|with|which|where|that|by|is|are|was|were|and|or|but|not|seems?|looks?|would|"
    r"must|should|can|could|cannot|has|fits|describes|matches|rather|instead|from|over|best|most|also|only|in|it|"
    r"although|though|whereas|however|unlike|when|whenever|if|according|unless|based|despite|regardless|without|until|"
    r"except|therefore|thus|hence)\b"
)
ARTICLE_RIGHT = re.compile(rf" (?!{CONNECTIVE})[a-zà-ɏ]|['’][a-z]")
# words that no noun phrase begins with, or hardly: behind "the answer is A" they leave it the letter
PARTICLE = one_of(
    *"while so after before then meaning on to than under among amongst per thanks once too here there even".split(),
    *"overall about above below through throughout between during against like at into within upon across".split(),
    *"beyond considering judging following regarding assuming provided showing indicating implying suggesting".split(),
    *"stating saying simply just clearly obviously definitely certainly probably perhaps surely indeed now yet".split(),
    *"still otherwise nevertheless nonetheless alone may might will do does did had have he she they we you".split(),
    *"again along this these those the my your our his her its how why what who whose all any both no none out".split(),
    *"myself whether besides unfortunately especially particularly mainly mostly partly basically always never".split(),
    *"neither nor either of followed compared".split(),
    "more than",
)
STATED_ARTICLE_RIGHT = re.compile(rf" (?!{CONNECTIVE}|{PARTICLE}\b)[a-zà-ɏ]|['’][a-z]")
COLON_LEFT = re.compile(r"[:=–—-] ?$")  # what follows may be an option's text: "Answer: A clearly marked road"
INITIALS = re.compile(r"\b(?:[A-Z]\. ){2,}(?=[A-Z][a-z])")  # "J. K. Rowling"
PRONOUN_RIGHT = re.compile(r" (?!(?:is|because|since|as|and|or|are|was|were|best|fits)\b)[a-z]|['’][a-z]")
JOIN = re.compile(r"\)? ?(?:,? ?(?:and|und|et)|[,、;&+]|和|与|及|以及)? ?\(?")
HEDGE = re.compile(r" ?(?:,? ?or|/|或者?|还是) ?")
NONE_OF_LEFT = re.compile(r"\b(?:none|neither|any|all) of $", I)
OF_ONE_RIGHT = re.compile(r"\)? (?:is|was|isn|seems|looks|would|can|does|has|fits|remains|must|should|makes)\b")

FILL = (
    one_of(
        *"therefore thus then hence clearly definitely probably likely indeed obviously simply just actually".split(),
        *"certainly surely options? choices? answers? letters? the a both either only alternative number".split(),
        "statement",
        "most likely",
        "选项",
        "選項",
    )
    + r"\b ?"
)
FILL = rf"(?:{FILL})*"
BE = r"(?:is|are|was|be|es|ist|est|é|è|remains|becomes)"
WORDS = r"(?: (?!(?:because|since|while|although|but|so|if|when)\b)[\w'’-]+){0,8}?"
ANSWER = one_of(
    "answers?",
    "ans",
    "solution",
    "response",
    "respuesta",
    "antwort",
    "réponse",
    "resposta",
    "risposta",
    "ответ",
    r"(?:correct|right) one",
    r"(?:correct|right|best|final|chosen|my|valid|suitable) (?:options?|choices?|pick|selection|letters?|key)",
)
CHOOSE = one_of(
    *"choose chose pick picked select selected choosing selecting picking mark circle".split(),
    r"(?:go|going|went|stick|answer) with",
    r"(?:go|opt|opted|vote) for",
    "settle on",
    r"lean(?:ing)? towards?",
    r"prefer(?:red)?",
    r"favou?r",
)
# the answer, named as such, or chosen
STATED_LEFT = re.compile(
    rf"\b{one_of(ANSWER, 'option', 'choice', 'selection', 'pick', 'guess', 'verdict')}\b{WORDS}[,:]? {BE}"
    rf"(?: going to be)?[:,]? ?{FILL}$"
    rf"|\b{one_of(ANSWER, 'option', 'choice', 'pick', 'selection', 'guess', 'conclusion', 'result', 'correct')}\b"
    rf"[\"'”]?{WORDS}\.? ?(?:[:=→]|[-=–—]+>|[-–—](?= ))+ ?{FILL}$"
    rf"|\b{CHOOSE}[:,]? ?{FILL}$"
    r"|(?:答案|正[确確]的?(?:选项|選項)?|最佳选项|选项|结论|結論|答え|正解|정답|답)"
    r"[^。\n,;!?A-Za-z]{0,12}?(?:是|为|為|选|選|:|は|은|는) ?(?:选项|選項)? ?[(「【]?$"
    r"|(?:选|選)(?:择|擇)?(?:的?是|为|:)? ?$",
    I,
)
NAMED_LEFT = re.compile(
    r"\b(?:answers?|ans)\.?\s*$|答案[】\]]? ?$", I
)  # "Answer B", where nothing follows that makes it a mention
SAID_LEFT = re.compile(  # said more loosely
    r"\b(?:say|think|believe|guess|conclude|suggest|suspect)"
    rf"(?: (?:that|it is|it['’]s|it would be|it must be|it has to be))?:? ?{FILL}$"
    rf"|\b(?:it is|it['’]s|this is|that is|that['’]s|(?:would|must|should) be|has to be|we (?:get|have)|"
    rf"leav(?:es|ing)(?: us)?(?: with)?|left with|only|namely|but|rather|instead|except(?: for)?|is)"
    rf"[:,]? ?{FILL}$"
    rf"|(?:^|[\n.,;!?:—–-] ?)(?:so|thus|hence|therefore|then|consequently|in conclusion|overall|finally)[,:]? ?{FILL}$"
    rf"|\b(?:on (?:second |further )?(?:reflection|thought|balance)|ultimately|in the end|eventually|after all)"
    rf"[,:]? ?{FILL}$"
    rf"|(?:=>|->|[⇒→∴]) ?{FILL}$"
    r"|(?:因此|所以|故|是|即) ?(?:选项|選項)? ?$",
    I,
)
END_RIGHT = re.compile(
    r"[)\]}\"'”’]*(?: ?(?:[.!?,;:\n。，；—–]|$)| \(| - "
    r"| (?:because|since|as|due|given|which|for|it is|in my|instead|rather|i think|but|although|though|while|over|"
    r"based|according|unless|whereas|however|if|when)\b"
    r"|[\u3040-\u9fff])",
    I,
)

SMALL_RIGHT = re.compile(
    rf"\)(?!\w)|{END_RIGHT.pattern}| ?(?:and|&|,) ?\(?[a-j]\b", I
)  # a small letter that is no word

IS = (
    r"[)\]}\"'”’]*,?(?: (?:above|here|indeed))?"
    r"(?: (?:is|are|was|must be|would be|should be|has to be|seems|looks|appears|remains)|['’]s)(?: to be)?"
)
VERY = one_of(
    *"also both clearly definitely therefore thus obviously probably indeed still the a my our only most".split(),
    *"single best correct right certainly all final then more".split(),
)
ANSWER_RIGHT = re.compile(  # called the answer
    rf"{IS}(?: {VERY})* (?:answers?|choices?|options?|pick|selection|preference)\b"
    r"|[)\]]*(?:选项)?(?:是|为|才是)(?:正确)?答案",
    I,
)
PLAINLY_RIGHT = re.compile(  # behind it: nothing that says to what, for whom or when it is the answer
    r"(?: (?:here|overall|then|indeed|to (?:the|this) question|in this case))?[)\]}\"'”’]*"
    r" ?(?:[.!,;:\n。，；]|$|(?:because|since|as|but|and|so|not|rather)\b)"
)
RIGHT_RIGHT = re.compile(  # called right
    rf"{IS}(?: {VERY})* "
    r"(?:correct|right|best|true|appropriate|accurate|valid|likely|suitable|better|preferable|preferred|one|left)\b"
    r"|[)\]]* (?:best|most closely|correctly|better) (?:fits|describes|matches|explains|answers|represents|completes)\b"
    r"|[)\]]* makes (?:the )?(?:most|more) sense\b|[)\]]*\? ?(?:yes|correct|right)\b"
    r"|[)\]]* (?:fits|works|matches) best\b|[)\]]* it is\b|[)\]]* remains\b"
    r"|[)\]]*[:—–-]? ?\(?(?:correct|true|yes|right|✓|✔|✅)(?![a-z])"
    r"|[)\]]* ?(?:选项|項|项)?(?:是|为|才|最|更|都|均)*(?:正确|正確|对|最佳|合适|恰当|符合)(?!吗)",
    I,
)
DENIED_LEFT = re.compile(  # denied, or only asked about
    r"(?:\bnot|n['’]t|\bcannot|\bnever|\bneither|\bnor|\bnone of|\brul(?:ed?|ing) out|\beliminat\w+|\bexclud\w+|"
    r"\breject\w*|\bdiscard\w*|\bdismiss\w*|\b(?:cross|strik|struck)\w* out|"
    r"\bbetween|\bamong(?:st)?|\binstead of|\bthan|\bunlike|\bversus|\bvs\.?|\bif|\bwhether|\bsuppose|\bassum\w+)"
    rf"(?: (?:be|choose|pick|select|say|think|have|go with|it is|it['’]s))* ?{FILL}$"
    r"|(?:不是|不选|不能选|不应选|排除|并非|而非|除了) ?(?:选项)?$"
    r"|(?:^|\n)[ >+-]*[❌✗✘✖☐☒]\ufe0f? ?$",
    I,
)
RULED_OUT_LEFT = re.compile(
    r"(?:\bnone of|\bneither|\brul(?:ed?|ing) out|\beliminat\w+|\bexclud\w+|\breject\w*|\bdiscard\w*|\bdismiss\w*|"
    rf"\b(?:cross|strik|struck)\w* out|排除) ?{FILL}$",
    I,
)
LIST_GOES_ON_RIGHT = re.compile(  # "not A, B or C"
    r"\)?(?:, ?\(?[A-J]\)?)*,? (?:and|or|nor) \(?[A-J]\b\)?(?! (?:is|are|was|were|must|may|can|could|seems?|looks?)\b)"
)
TICKED = re.compile(
    r"^[ >+-]*(?:\d+[.)] )?[✅✔✓☑]\ufe0f? *\(?([A-J]|[a-j](?=[).]|\s*$))(?![A-Za-z0-9'’]| [a-zà-ɏ])", re.MULTILINE
)
CHECKBOX = re.compile(r"^([ \t>*+-]*)\[([xX ]?)\](?= )", re.MULTILINE)
BLOCKS = set("p div br h1 h2 h3 h4 h5 h6 ul ol li pre center table tbody tr td th".split())
TAGS = re.compile(
    r"</?(b|i|u|p|a|strong|em|span|div|br|h[1-6]|ul|ol|li|code|pre|mark|font|sub|sup|small|big|center|table|tbody|tr|td|th)"
    r"(\s[^<>]{0,200})?/?>",
    I,
)
DENIED_RIGHT = re.compile(
    r"[)\]}\"'”’]*(?: (?:is|are|was|were|seems?|looks?|would|can|could|must|does|do|has|have|should|may|might|choice))*"
    r"(?: (?:be|also|both|all|clearly|obviously|simply|definitely|therefore|just|too|been|thus|out|the|a))*"
    r"(?: (?:not(?! (?:wrong|incorrect|false|only)\b)|cannot|wrong|incorrect|false|eliminated|excluded|impossible|"
    r"unlikely|invalid|ruled|rejected|distractors?)\b)"
    r"|[)\]]* (?:is|are|does|do|was|were|could|would|can|ca|wo)n['’]t\b|[)\]}\"'”’]* ?\?(?= ?(?!yes|correct|right)\S)"
    r"|[)\]]*[:—–-]? ?\(?(?:incorrect|wrong|false|no|✗|✘|❌)(?![a-z])"
    r"|[)\]]* ?(?:选项|項|项)?(?:是|都|也|均|并|明显)*(?:不|错|误|有误|排除|无关)",
    I,
)

MARKED = re.compile(r"<(?:final_?)?answer>(?P<tag>[^<]{0,2000})|\[\[(?P<judge>[^\[\]\n]{0,200})\]\]", I)
HEADED = re.compile(r"^#### ?[*_]*\(?([A-Za-z])\)?[*_.]*\s*$", re.MULTILINE)  # GSM8K's mark
ALONE_LEFT = re.compile(
    rf"(?:(?:maybe|perhaps|yes|ok|okay|well|sure|i think|i guess|my guess)[,:]? )?(?:{FILL}|选) ?", I
)
ALONE_RIGHT = re.compile(r"(?: only)?[.。!?)\]:,;]* ?")
LISTED = re.compile(r"(?:^|\s)\(?([A-J])[).:]\s")  # an option, as questions print them
OPTION = re.compile(r"(?:^|(?<=\s))\(?([A-Z])[).:](?=\s)")
SAYS = re.compile(r"\b(?:answer|option|choice)\b(?: \w+){0,4}?(?: is|:)\s+|答案(?:是|为|:|：)", I)
NAMED_MENTION_LEFT = re.compile(r"\b(?:option|choice)s? (?:number |no\. ?)?$|选项$", I)
NAMED_OPENING = re.compile(r"(?:option|choice|letter) (?:number )?\(?", I)
EDGE_LEFT = re.compile(r"(?:^|(?<!Mr)(?<!Ms)(?<!Mrs)(?<!Dr)(?<!St)[.,;:!?—–\n] ?)$")
EDGE_RIGHT = re.compile(r" ?(?:[.,;:!\n。]|$)| (?:rather|instead|not|only)\b")
BOLD = re.compile(r"(?:\*\*|__) ?\(?([A-Za-z])(?:\)|[.:](?=[ *_])|(?=\*\*|__))[^*_\n]{0,200}(?:\*\*|__)")
OPENS = re.compile(  # a line that begins with a letter
    r"[ >#*{-]*(?:\( ?([A-Za-z]) ?\)|\[([A-Z])\]|([A-Za-z]) ?(?:\)|:(?=\s|$))"
    r"|([A-Z])(?:[.,](?= |$)|[。,、])(?! ?[A-Z](?:[.,、]|\b))"
    r"|([a-hj-z])\.(?= |$)|([A-Z])(?: [–—-] |$)|([B-HJ-Z])(?= [A-Z0-9]))"
)
GOOD = re.compile(r"\b(?:correct|right|true|yes|best)\b|[✓✔✅]|正确", I)
BAD = re.compile(r"\b(?:not|incorrect|wrong|false|no|cannot)\b|n['’]t\b|[✗✘❌]|不正确|不对|错误", I)
