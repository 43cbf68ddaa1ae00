//! A part of the BAS chart of accounts, as a new company has it.

use super::books::{Account, Rule};

use Rule::{Allowed, Mandatory, NotAllowed};

/// Number, name, SRU code, VAT code, whether it is active, and whether rows carry a cost center.
type Line = (u16, &'static str, u16, &'static str, bool, Rule);

#[rustfmt::skip]
const LINES: [Line; 58] = [
    (1010, "Utvecklingsutgifter", 7201, "", false, Allowed),
    (1210, "Maskiner och andra tekniska anläggningar", 7215, "", true, Allowed),
    (1220, "Inventarier och verktyg", 7215, "", true, Allowed),
    (1229, "Ackumulerade avskrivningar på inventarier", 7215, "", true, Allowed),
    (1250, "Datorer", 7215, "", true, Allowed),
    (1460, "Lager av handelsvaror", 7243, "", true, Allowed),
    (1510, "Kundfordringar", 7251, "", true, NotAllowed),
    (1580, "Fordringar för kontokort och kuponger", 7261, "", true, Allowed),
    (1630, "Avräkning för skatter och avgifter", 7261, "", true, Allowed),
    (1650, "Momsfordran", 7261, "R2", true, Allowed),
    (1710, "Förutbetalda hyreskostnader", 7263, "", true, Allowed),
    (1790, "Övriga förutbetalda kostnader", 7263, "", true, Allowed),
    (1910, "Kassa", 7281, "", true, Allowed),
    (1920, "PlusGiro", 7281, "", false, Allowed),
    (1930, "Företagskonto", 7281, "", true, NotAllowed),
    (1940, "Övriga bankkonton", 7281, "", true, Allowed),
    (2081, "Aktiekapital", 7301, "", true, Allowed),
    (2091, "Balanserad vinst eller förlust", 7302, "", true, Allowed),
    (2099, "Årets resultat", 7302, "", true, Allowed),
    (2440, "Leverantörsskulder", 7365, "", true, NotAllowed),
    (2510, "Skatteskulder", 7368, "", true, Allowed),
    (2610, "Utgående moms 25 %", 7369, "U1", true, Allowed),
    (2611, "Utgående moms på försäljning inom Sverige, 25 %", 7369, "U1", true, Allowed),
    (2614, "Utgående moms omvänd skattskyldighet, 25 %", 7369, "U1MI", true, Allowed),
    (2620, "Utgående moms 12 %", 7369, "U2", true, Allowed),
    (2630, "Utgående moms 6 %", 7369, "U3", true, Allowed),
    (2640, "Ingående moms", 7369, "I", true, Allowed),
    (2641, "Debiterad ingående moms", 7369, "I", true, Allowed),
    (2645, "Beräknad ingående moms på förvärv från utlandet", 7369, "I", true, Allowed),
    (2650, "Redovisningskonto för moms", 7369, "R1", true, Allowed),
    (2710, "Personalskatt", 7369, "", true, Allowed),
    (2731, "Avräkning lagstadgade sociala avgifter", 7369, "", true, Allowed),
    (2920, "Upplupna semesterlöner", 7370, "", true, Allowed),
    (2990, "Övriga upplupna kostnader och förutbetalda intäkter", 7370, "", true, Allowed),
    (3001, "Försäljning inom Sverige, 25 % moms", 7410, "MP1", true, Allowed),
    (3002, "Försäljning inom Sverige, 12 % moms", 7410, "MP2", true, Allowed),
    (3003, "Försäljning inom Sverige, 6 % moms", 7410, "MP3", true, Allowed),
    (3004, "Försäljning inom Sverige, momsfri", 7410, "MF", true, Allowed),
    (3041, "Försäljning av tjänster 25 % moms", 7410, "MP1", true, Allowed),
    (3740, "Öres- och kronutjämning", 7410, "", true, Allowed),
    (3990, "Övriga ersättningar och intäkter", 7413, "", true, Allowed),
    (4010, "Inköp av material och varor", 7511, "", true, Allowed),
    (4600, "Legoarbeten och underentreprenader", 7511, "", true, Allowed),
    (5010, "Lokalhyra", 7513, "", true, Allowed),
    (5410, "Förbrukningsinventarier", 7513, "", true, Allowed),
    (5420, "Programvaror", 7513, "", true, Allowed),
    (5611, "Drivmedel för personbilar", 7513, "", true, Allowed),
    (5800, "Resekostnader", 7513, "", true, Mandatory),
    (5910, "Annonsering", 7513, "", true, Mandatory),
    (6071, "Representation, avdragsgill", 7513, "", true, Allowed),
    (6110, "Kontorsmateriel", 7513, "", true, Allowed),
    (6212, "Mobiltelefon", 7513, "", true, Allowed),
    (6530, "Redovisningstjänster", 7513, "", true, Allowed),
    (6570, "Bankkostnader", 7513, "", true, Allowed),
    (6990, "Övriga externa kostnader", 7513, "", false, Allowed),
    (7010, "Löner till kollektivanställda", 7514, "", true, Allowed),
    (7510, "Lagstadgade sociala avgifter", 7514, "", true, Allowed),
    (8999, "Årets resultat", 7450, "", true, Allowed),
];

/// The accounts of one year.
pub(super) fn accounts(now: i64) -> impl Iterator<Item = (u16, Account)> {
    LINES.iter().map(move |(number, description, sru, vat_code, active, cost_center)| {
        let account = Account {
            sru: *sru,
            vat_code: (!vat_code.is_empty()).then(|| (*vat_code).to_owned()),
            active: *active,
            cost_center: *cost_center,
            modified: now,
            ..Account::new(*number, *description)
        };
        (*number, account)
    })
}
