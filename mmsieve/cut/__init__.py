"""What `filter` is made of: tables read and joined in bounded memory, conditions, exact cuts."""
