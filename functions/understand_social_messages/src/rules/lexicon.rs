//! What words weigh, from -3 to 3: for each weight, the words. One that ends with `*` is a stem.

/// Words of Swedish.
pub(super) const SWEDISH: &[(f64, &str)] = &[
    (2.8, "fantastisk* jättenöjd*"),
    (2.7, "suverän*"),
    (2.6, "enastående älskar oslagbar*"),
    (2.5, "bäst underbar* perfekt* mästerlig*"),
    (2.4, "älskade älskat utmärkt* strålande klockren* överträff*"),
    (2.3, "bästa toppen magisk* kanon"),
    (
        2.2,
        "finast* vacker* vackra* ljuvlig* grym proffsig* älska nöjd* lycklig* imponerande exemplarisk* lysande
        klanderfri* bravo",
    ),
    (2.0, "härlig* grymt grymma imponer* hjälpsam* rekommender* wow drömkök* felfri* lyhörd* hurra"),
    (
        1.8,
        "snygg* topp professionell* kunnig* trevlig* tillmötesgående prisvärd* mysig* mysigt stilren* elegant*
        smakfull* stolt* super drömhem* favorit* noggrann* pålitlig* grattis kärlek otrolig* läcker* läckra",
    ),
    (1.7, "tjusig*"),
    (
        1.6,
        "gullig* smidig* kul genomtänkt* inspirer* gillar gillade uppskatt* glad glada gladare tacksam* drömmen
        guld heja",
    ),
    (1.5, "najs söt sött söta maffig* gött bra fin fint fina skön* fräsch*"),
    (1.4, "vänlig* snäll* rolig* lyck* längtar dröm positiv* trygg*"),
    (1.3, "bekväm* gilla"),
    (1.2, "lyft finare"),
    (1.0, "värd värt"),
    (0.8, "bättre snabb* godkän* löste"),
    (0.7, "tackar"),
    (0.6, "fungerar fungerade funkar funkade passar passade"),
    (0.5, "tack stjärnor löser"),
    (0.4, "äntligen"),
    (0.3, "fungera funka ordning"),
    (0.2, "ljus* håller"),
    (0.1, "ja"),
    (0.0, "tusen oj reklam"),
    (-0.4, "ingen"),
    (-0.5, "sen vänta"),
    (-0.6, "lovade lovat fortfarande hål väntar anmälan aldrig sakna*"),
    (-0.7, "avboka*"),
    (-0.8, "sena slit*"),
    (-1.0, "väntat dyr dyrt dyra tappat"),
    (-1.1, "tyvärr"),
    (-1.2, "försvann försvunn* fläck* borttappad* seg segt synd reklam* kräver lukta* orolig* kassa sned snett"),
    (-1.3, "fel felet problem* saknas chock* glapp*"),
    (-1.4, "ångra saknades oläslig* skev*"),
    (-1.5, "lossna* buckl* spricka sämre repor långsam* klaga* anmäl* ledsna"),
    (-1.6, "fan skada skador tråkig* trist rån klagom* sprickor ledsen"),
    (-1.7, "repig* felaktig* krångl* strul* försen* sorglig* värre krasch*"),
    (-1.8, "skämt vägra* jävla ful fult fula spruck* skadad* överpris* smutsig* undvik* värst*"),
    (-1.9, "irriter* sönder"),
    (
        -2.0,
        "dålig* dåliga arg arga frustrer* trasig* defekt* slarv* ohjälpsam* okunnig* lura ocker* hutlös* ångrar
        mögel pinsam* skäms orimlig* misslyck* varnar ignorer* meningslös*",
    ),
    (-2.1, "bristfällig*"),
    (-2.2, "förstör* dök bedröv* skit arrogant* nonchalan* opålitlig* stinker fusk* struntar kass kasst"),
    (-2.3, "besvik* skiten otrevlig* lurar hata hopplös* bortkasta*"),
    (-2.4, "hemsk* missnöjd* förbanna* skräp oproffsig* oprofessionell* lurad* skamlig*"),
    (-2.5, "oförskämd* oseriös* undermålig*"),
    (-2.6, "bluff* hatar avsky* oacceptabel* oacceptabelt avråder"),
    (-2.7, "uselt usel* fruktansvärd* skandal* lurendrej* bedräg*"),
    (-2.8, "sämst* värdelös*"),
    (-2.9, "katastrof*"),
];

/// Words of English.
pub(super) const ENGLISH: &[(f64, &str)] = &[
    (2.7, "amazing* fantastic* outstanding* phenomenal*"),
    (2.6, "stunning* awesome* wonderful* excellent* superb* magnificent* masterpiece"),
    (2.5, "gorgeous* perfect* brilliant* thrilled fabulous* flawless* exceptional*"),
    (2.4, "best love loved loves terrific"),
    (2.3, "beautiful* delight*"),
    (2.2, "great loving incredibl* bravo"),
    (2.1, "lovely"),
    (2.0, "nicest impress* happy happier recommend* helpful* wow fab exceed* talented magic* obsessed legend*"),
    (1.9, "pleased satisfied dreamy"),
    (
        1.8,
        "speechless yay excited friendly kindness professional* knowledgeable grateful elegant* stylish*
        favourite* favorite* spotless congrat* reliable attentive charming",
    ),
    (1.7, "pleasure exciting enjoy* classy tasteful* inspir* proud thoughtful*"),
    (1.6, "pleasant* polite* thankful appreciat* cozy cosy superior chic"),
    (1.5, "transform* cute sweet good nice nicely happily glad smooth* comfy"),
    (1.4, "liked cool comfortable dream bargain fun positive*"),
    (1.3, "kind"),
    (1.2, "patient* likes solved trust* goals"),
    (1.1, "worth"),
    (1.0, "easy honest*"),
    (0.8, "better quick* fast top"),
    (0.6, "like thank thanks works"),
    (0.5, "worked"),
    (0.4, "working"),
    (0.2, "kindly"),
    (0.0, "five"),
    (-0.6, "promised still never sorry"),
    (-0.7, "nobody cancel*"),
    (-0.8, "fed"),
    (-0.9, "pricey cheap"),
    (-1.0, "waiting meh"),
    (-1.1, "issue* expensive smell*"),
    (-1.2, "lost waited unfortunately worried noisy tired"),
    (-1.3, "missing problem* error* late refund* stain* uneven"),
    (-1.4, "mistake* slow* bland"),
    (-1.5, "breaks wrong* unanswered sadly crooked wonky"),
    (-1.6, "refus* torn chipped wobbly peeling scratch* crack* messy delay* complain* joke leak* mold* mediocre"),
    (-1.7, "dirty sad boring"),
    (-1.8, "lazy broke damag* mess flimsy"),
    (-1.9, "badly worse annoy* upset* broken fail* unresponsive underwhelm* wast* pointless"),
    (
        -2.0,
        "bad poor ugly frustrat* dismissive* careless* faulty defect* ignor* overpriced regret* avoid* shame*
        embarrass* unsafe shocking*",
    ),
    (-2.1, "poorly angry sloppy ashamed unreliable overcharg*"),
    (-2.2, "ruin* unusable fake* unhappy arrogant* lies lying mislead* ridiculous* stink* unhelpful insult* lousy"),
    (-2.3, "disappoint* trash dissatisfied hopeless* shoddy"),
    (-2.4, "rubbish crap* shit* sucks hideous* hates rude* unprofessional* cheat* lied"),
    (-2.5, "dreadful* pathetic* useless* garbage hate hated incompeten* dishonest*"),
    (-2.6, "awful* disgust* worthless* furious* unacceptabl* ripoff liar*"),
    (-2.7, "terribl* horribl* appalling* nightmare* disgrace*"),
    (-2.8, "worst scam* fraud* disaster*"),
];

/// What several words weigh together; between commas.
pub(super) const PHRASES: &[(f64, &str)] = &[
    (2.8, "couldn't be happier, kunde inte vara nöjdare, could not be happier"),
    (2.6, "great job"),
    (2.5, "bra jobbat, kan inte bli bättre"),
    (
        2.4,
        "blown away, in love with, 10 10, 10 av 10, 10 out of 10, above and beyond, över all förväntan, well done, bra jobb, över förväntan, five stars, 5 stars, fem stjärnor, 5 stjärnor",
    ),
    (2.3, "good job"),
    (
        2.2,
        "exactly what we wanted, precis som vi ville, made my day, gjorde min dag, tusen tack, can't thank, cannot thank, never been happier, never better, spot on, mitt i prick, worth every, värt varenda, värt varje",
    ),
    (1.8, "stort tack, tack snälla, big fan, so much better, mycket bättre, can't wait, kan knappt vänta"),
    (1.5, "kan inte klaga"),
    (1.4, "can't complain"),
    (1.2, "ser fram emot, look forward, looking forward, so far so good"),
    (1.0, "keep up"),
    (0.9, "no issues"),
    (0.8, "inga problem"),
    (0.6, "ha en bra, have a great, have a nice"),
    (0.5, "no problem, helt okej"),
    (0.4, "ingen fara, lika bra"),
    (0.2, "best time, bästa sättet, best way"),
    (
        0.0,
        "tack på förhand, thanks in advance, med vänliga hälsningar, vänliga hälsningar, kind regards, best regards,
        bästa hälsningar, how much, would like, i'd like, looks like, look like, something like, rent ut sagt, what
        kind, kind of, any kind, good morning, good evening, god morgon, hur snabbt, how fast, how quickly",
    ),
    (-1.0, "så dags"),
    (-1.2, "har inte fått"),
    (-1.4, "still not"),
    (-1.5, "third time, tredje gången, varför svarar, inte fått något, no answer, fortfarande inte, still no, fel på"),
    (-1.6, "svarade inte, no reply, do better"),
    (-1.7, "inget svar, no response"),
    (
        -1.8,
        "not what i ordered, not what we ordered, stopped working, ger upp, give up, gave up, slutade fungera, slutat fungera, hasn't arrived, fell off, no one answers, svarar inte, still waiting, pengarna tillbaka, money back, skärpning",
    ),
    (-2.0, "ingen svarar, dra åt, let down, gick sönder"),
    (
        -2.2,
        "never arrived, kom aldrig, never showed, dök aldrig upp, dyker inte upp, hung up on, skärp er, en stjärna, 1 stjärna, fed up",
    ),
    (-2.3, "fell apart"),
    (-2.4, "aldrig mer, aldrig igen, slöseri med, what a joke, one star, 1 star"),
    (-2.5, "never again, waste of, rip off"),
    (-2.6, "tack för ingenting, thanks for nothing, thank you for nothing, ripped off"),
];

/// Pictures.
pub(super) const EMOJI: &[(f64, &str)] = &[
    (2.3, "😍🥰"),
    (2.2, "🤩"),
    (2.1, "😻"),
    (2.0, "❤"),
    (1.9, "💕💖💗"),
    (1.7, "👏🙌💯💙💚💛💜🧡🥳"),
    (1.6, "😘🎉🔥"),
    (1.5, "😄🌟🤍"),
    (1.4, "😊😀😃😁👍👌🤗"),
    (1.3, "⭐☺"),
    (1.2, "✨🖤😎"),
    (1.1, "💪"),
    (0.7, "🙂"),
    (0.6, "🙏"),
    (0.5, "😂"),
    (-0.8, "😱"),
    (-1.2, "😭😕😑"),
    (-1.3, "🙁"),
    (-1.5, "😔😩😫"),
    (-1.6, "😢🙄☹🤦"),
    (-1.7, "😞😤😒"),
    (-1.8, "🤡"),
    (-1.9, "💔"),
    (-2.0, "😠👎"),
    (-2.2, "💩"),
    (-2.3, "😡🤢"),
    (-2.5, "🤮"),
    (-2.6, "🤬"),
];

/// Words that are something else in the other language.
pub(super) const FALSE_FRIENDS: &str =
    "bad kind fan hot god sen fin fel kul full fast late top ja seg arg grant like fed lies glad fun kassa five mess
    rån ful sad";

/// What negates.
pub(super) const NEGATORS: &str =
    "inte ej icke aldrig ingen inget inga utan knappast varken not no never none neither nor without hardly barely
    cannot cant dont doesnt didnt isnt wasnt wont nothing ingenting";

/// Swedish verbs, whose negation follows them, by how they begin.
pub(super) const VERBS: &str =
    "fungera funka gilla älska rekommender uppskatta passa håller löste löser lyck imponer hjälp";

/// What makes the word after it more.
pub(super) const INTENSIFIERS: &str =
    "himla mycket väldigt så jätte otroligt extremt riktigt verkligen helt fruktansvärt galet sjukt oerhört alldeles super
    grymt rent very really so extremely absolutely totally incredibly completely truly utterly such highly insanely
    way too för";

/// What makes it less.
pub(super) const DIMINISHERS: &str =
    "lite ganska något rätt hyfsat slightly bit somewhat kinda fairly little rather quite";

/// What begins a clause that weighs more than the one before it.
pub(super) const CONTRASTS: &str = "men dock fast but however although though";

/// Parts of Swedish words that stress the rest.
pub(super) const PREFIXES: &str =
    "skit jätte super mega ultra kanon as svin rå fet sjukt dunder topp hyper genom sten pang världs drömm";

/// The commonest words of Swedish that English has not.
pub(super) const SWEDISH_FUNCTION: &str =
    "och det att jag inte en ett som ni er era ert har den vi du med av om till kan var men min mitt mina vad hur när
    hej tack så de dem ska vill blir blev finns mycket bra nu från eller denna detta hos";

/// The commonest words of English that Swedish has not.
pub(super) const ENGLISH_FUNCTION: &str =
    "the a and is it of to you your i my we this that with was are have has not what how when be do does can will but
    so they there from would our on been me just for at in";
